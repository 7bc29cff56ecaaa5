import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from db.door import Row
from db.errors import NoSuchRow, Stale
from db.store import Store

AT = "2026-11-22T08:00:00.000Z"
Enrol = Callable[..., Awaitable[Row]]


def line(seq: int, kind: str, **data: Any) -> Row:
    return {"seq": seq, "kind": kind, "at": AT, "data": data}


def names(events: list[Row]) -> list[str]:
    return [event["name"] for event in events]


def what(events: list[Row]) -> list[Any]:
    return [event["data"].get("what") for event in events]


async def test_lines_are_applied_once_and_in_order(store: Store, node: Row) -> None:
    lines = [line(seq, "dropped", log_lines=seq) for seq in range(1, 6)]
    first = await store.accept_reports(node["id"], "spool", lines[:3])
    assert (first["applied_seq"], first["refused"], [event["data"]["log_lines"] for event in first["events"]]) == (
        3,
        0,
        [1, 2, 3],
    )
    second = await store.accept_reports(node["id"], "spool", lines)
    assert (second["applied_seq"], [event["data"]["log_lines"] for event in second["events"]]) == (5, [4, 5])
    assert (await store.accept_reports(node["id"], "spool", lines[1:4]))["applied_seq"] == 5
    assert (await store.accept_reports(node["id"], "spool", []))["applied_seq"] == 5


@pytest.mark.one_door
async def test_another_spool_counts_from_one_again(store: Store, node: Row, enrol: Enrol) -> None:
    other = await enrol("site-b")
    await store.accept_reports(node["id"], "spool", [line(1, "dropped", log_lines=1)])
    assert len((await store.accept_reports(node["id"], "new spool", [line(1, "dropped", log_lines=1)]))["events"]) == 1
    assert len((await store.accept_reports(other["id"], "spool", [line(1, "dropped", log_lines=1)]))["events"]) == 1


async def test_nothing_behind_a_gap_is_applied_and_the_gap_is_warned_of_once(store: Store, node: Row) -> None:
    lines = [line(1, "dropped", log_lines=1), line(3, "dropped", log_lines=3)]
    first = await store.accept_reports(node["id"], "spool", lines)
    assert (first["applied_seq"], what(first["events"])) == (1, ["spool.dropped", "report.gap"])
    assert (await store.accept_reports(node["id"], "spool", lines))["events"] == []
    lines.insert(1, line(2, "dropped", log_lines=2))
    assert (await store.accept_reports(node["id"], "spool", lines))["applied_seq"] == 3


async def test_eight_deliveries_of_the_same_lines_at_once_apply_each_line_once(store: Store, node: Row) -> None:
    lines = [line(seq, "dropped", log_lines=seq) for seq in range(1, 21)]
    answers = await asyncio.gather(*(store.accept_reports(node["id"], "spool", lines[: 6 + 2 * n]) for n in range(8)))
    told = [event["data"]["log_lines"] for answer in answers for event in answer["events"]]
    assert sorted(told) == list(range(1, 21))


async def test_malformed_lines_are_refused_counted_warned_of_and_acknowledged(store: Store, node: Row, database_url: str) -> None:
    lines: list[Any] = [
        line(1, "gossip"),
        {"seq": 2, "kind": "dropped", "at": AT},
        {"seq": 3, "kind": "dropped", "at": AT, "data": ["no object"]},
        line(4, "session", status="running"),
        line(5, "session", session_id="no uuid", status="running"),
        line(6, "session", session_id=str(uuid4()), status="asleep"),
        line(7, "inventory", hardware=[], datasets=[]),
        line(8, "inventory", hardware={}, datasets={"id": "x"}),
        line(9, "log", source="serverapp", flower_run_id="77", lines=[]),
        line(10, "log", source="clientapp", flower_run_id="77", lines="text"),
        line(11, "log", source="clientapp", flower_run_id="-1", lines=["text"]),
        line(12, "clientapp", event="clientapp.danced"),
        line(13, "dropped", log_lines=float("nan")),
        {"kind": "dropped", "data": {}},
        "no object",
        line(14, "dropped", log_lines=1),
    ]
    answer = await store.accept_reports(node["id"], "spool", lines)
    assert (answer["applied_seq"], answer["refused"]) == (14, 15)
    assert what(answer["events"]) == ["report.refused"] * 15 + ["spool.dropped"]
    assert {event["name"] for event in answer["events"]} == {"fl.client.warned"}
    assert {event["node_id"] for event in answer["events"]} == {node["id"]}


async def test_a_batch_with_one_bad_line_keeps_what_the_others_say(store: Store, node: Row, run: Row) -> None:
    log = {"source": "clientapp", "flower_run_id": "77", "lines": [{"text": "kept"}]}
    answer = await store.accept_reports(node["id"], "spool", [line(1, "log", **log), line(2, "gossip"), line(3, "log", **log)])
    assert [row["text"] for row in answer["lines"]] == ["kept", "kept"]
    assert [row["text"] for row in await store.rows("log_list", {"run_id": run["id"]})] == ["kept", "kept"]


async def test_reports_of_an_unknown_or_removed_node_are_refused(store: Store, node: Row) -> None:
    with pytest.raises(NoSuchRow):
        await store.accept_reports(str(uuid4()), "spool", [])
    await store.remove_node(node["id"])
    with pytest.raises(Stale, match="removed"):
        await store.accept_reports(node["id"], "spool", [])


async def test_a_session_tells_its_story(store: Store, node: Row) -> None:
    session = str(uuid4())
    story = [
        line(1, "session", session_id=session, status="starting", runtime_config={"partition-id": 0}),
        line(2, "session", session_id=session, status="running", pid=4711, flower_node_id="5"),
        line(3, "session", session_id=session, status="running", pid=4711),
        line(4, "session", session_id=session, status="failed", reason="exit code 3", last_lines=["a", "b"]),
    ]
    answer = await store.accept_reports(node["id"], "spool", story)
    assert names(answer["events"]) == ["fl.client.joined", "fl.client.dropped"]
    (row,) = await store.rows("session_list", {"node_id": node["id"]})
    assert (row["id"], row["status"], row["pid"], row["flower_node_id"]) == (session, "failed", 4711, "5")
    assert (row["reason"], row["last_lines"], row["runtime_config"]) == ("exit code 3", ["a", "b"], {"partition-id": 0})
    assert row["ended_at"] is not None
    (listed,) = await store.rows("node_list", {"id": node["id"]})
    assert (listed["status"], listed["reason"], listed["session_status"]) == ("offline", "exit code 3", "failed")


@pytest.mark.one_door
async def test_a_session_never_goes_back_and_is_never_anothers(store: Store, node: Row, enrol: Enrol, project: Row) -> None:
    session = str(uuid4())
    other = await enrol("site-b")
    await store.accept_reports(node["id"], "spool", [line(1, "session", session_id=session, status="stopped")])
    back = await store.accept_reports(node["id"], "spool", [line(2, "session", session_id=session, status="running")])
    assert (back["refused"], back["events"][0]["data"]["why"]) == (1, "A session that is stopped does not become running.")
    assert (await store.accept_reports(other["id"], "spool", [line(1, "session", session_id=session, status="stopped")]))[
        "refused"
    ] == 1
    superlink = await store.open_session(project["coordinator_node_id"], "superlink", {})
    assert (await store.accept_reports(other["id"], "spool", [line(2, "session", session_id=superlink["id"], status="lost")]))[
        "refused"
    ] == 1
    (row,) = await store.rows("session_list", {"id": superlink["id"]})
    assert row["status"] == "starting"


@pytest.mark.one_door
async def test_the_next_session_makes_an_unfinished_one_lost(store: Store, node: Row) -> None:
    first, second = str(uuid4()), str(uuid4())
    story = [line(1, "session", session_id=first, status="running"), line(2, "session", session_id=second, status="starting")]
    await store.accept_reports(node["id"], "spool", story)
    rows = {row["id"]: row["status"] for row in await store.rows("session_list", {"node_id": node["id"]})}
    assert rows == {first: "lost", second: "starting"}


@pytest.mark.one_door
@pytest.mark.parametrize("is_insecure", [False, True])
async def test_a_flower_id_that_enrolment_gave_is_changed_by_no_report_unless_the_superlink_asks_for_no_keys(
    store: Store, project: Row, node: Row, is_insecure: bool
) -> None:
    await store.open_session(project["coordinator_node_id"], "superlink", {"insecure": is_insecure})
    claims = {"session_id": str(uuid4()), "status": "running", "flower_node_id": "6", "runtime_config": {"insecure": True}}
    await store.accept_reports(node["id"], "spool", [line(1, "session", **claims)])
    (row,) = await store.rows("node_list", {"id": node["id"]})
    assert row["flower_node_id"] == ("6" if is_insecure else node["flower_node_id"])


@pytest.mark.one_door
async def test_a_node_without_a_key_has_the_flower_id_that_it_reports(store: Store, enrol: Enrol) -> None:
    fresh = await enrol("site-b")
    await store.accept_reports(
        fresh["id"], "spool", [line(1, "session", session_id=str(uuid4()), status="running", flower_node_id="7")]
    )
    (row,) = await store.rows("node_list", {"id": fresh["id"]})
    assert row["flower_node_id"] == "7"


async def test_an_inventory_is_the_nodes_from_then_on(store: Store, node: Row) -> None:
    inventory = {"hardware": {"arch": "x86_64", "cores": 2}, "datasets": [{"id": "digits", "tags": ["a"], "num_items": 1797}]}
    await store.accept_reports(node["id"], "spool", [line(1, "inventory", **inventory)])
    (row,) = await store.rows("node_list", {"id": node["id"]})
    assert (row["hardware"], row["datasets"]) == (inventory["hardware"], inventory["datasets"])


@pytest.mark.one_door
async def test_two_nodes_with_one_dataset_are_each_warned_of_once_and_neither_is_told_of_the_other(
    store: Store, node: Row, enrol: Enrol
) -> None:
    other = await enrol("site-b")
    gone = await enrol("site-c")
    mine = {"hardware": {}, "datasets": [{"id": "digits"}, {"id": "mine"}, {"tags": ["no id"]}]}
    theirs = {"hardware": {}, "datasets": [{"id": "digits"}, {"id": "theirs"}]}
    await store.accept_reports(gone["id"], "spool", [line(1, "inventory", **theirs)])
    await store.remove_node(gone["id"])
    assert (await store.accept_reports(node["id"], "spool", [line(1, "inventory", **mine)]))["events"] == []
    events = (await store.accept_reports(other["id"], "spool", [line(1, "inventory", **theirs)]))["events"]
    assert {event["node_id"] for event in events} == {node["id"], other["id"]}
    assert [event["data"] for event in events] == [{"what": "dataset.duplicate", "dataset_id": "digits"}] * 2
    assert (await store.accept_reports(node["id"], "spool", [line(2, "inventory", **mine)]))["events"] == []


async def test_forwarded_lines_belong_to_their_run_also_when_it_is_adopted_later(store: Store, project: Row, node: Row) -> None:
    log = {
        "source": "clientapp",
        "flower_run_id": "77",
        "message_id": "m1",
        "lines": [{"at": AT, "level": "ERROR", "text": "boom"}],
    }
    assert (await store.accept_reports(node["id"], "spool", [line(1, "log", **log)]))["lines"] == []
    (early,) = await store.rows("log_list", {"run_id": None})
    assert early["project_id"] == project["id"]
    run = await store.adopt_run(project["id"], "77", "9", "app", None, {})
    (later,) = (await store.accept_reports(node["id"], "spool", [line(2, "log", **log)]))["lines"]
    rows = await store.rows("log_list", {"run_id": run["id"]})
    assert rows[0] == early | {"run_id": run["id"], "key": rows[0]["key"]}
    assert rows[0]["key"] > early["key"], "who follows the run after the last key misses none"
    assert later == {"run_id": run["id"], "at": rows[1]["at"], "level": "error", "text": "boom"}
    assert (rows[0]["level"], rows[0]["source"], rows[0]["node_name"], rows[0]["message_id"]) == (
        "error",
        "clientapp",
        "Site site-a",
        "m1",
    )


@pytest.mark.one_door
async def test_a_node_cannot_write_into_the_log_of_another_projects_run(store: Store, node: Row) -> None:
    other = await store.open_project("other", "Other", "coordinator", "Coordinator")
    run = await store.adopt_run(other["id"], "77", "9", "app", None, {})
    log = {"source": "clientapp", "flower_run_id": "77", "lines": [{"text": "forged"}]}
    await store.accept_reports(node["id"], "spool", [line(1, "log", **log)])
    assert await store.rows("log_list", {"run_id": run["id"]}) == []


async def test_a_dead_clientapp_is_a_warning_of_its_run_and_node(store: Store, node: Row, run: Row) -> None:
    died = {
        "event": "clientapp.died",
        "flower_run_id": "77",
        "message_id": "m1",
        "pid": 5,
        "rc": None,
        "signal": 9,
        "reason": "killed",
    }
    started = {"event": "message.started", "flower_run_id": "77", "message_id": "m1", "pid": 5}
    answer = await store.accept_reports(node["id"], "spool", [line(1, "clientapp", **started), line(2, "clientapp", **died)])
    (event,) = answer["events"]
    assert (event["name"], event["run_id"], event["node_id"]) == ("fl.client.warned", run["id"], node["id"])
    assert (event["data"]["what"], event["data"]["signal"]) == ("clientapp.died", 9)
    (row,) = await store.rows("node_list", {"id": node["id"]})
    assert row["activity"]["event"] == "clientapp.died"
    assert (await store.rows("run_list"))[0]["warnings"] == 1
