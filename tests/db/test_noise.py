"""What a site can add to the database has an end, however much it says."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from db.door import Row
from db.store import Store
from tests.db.conftest import AT

Enrol = Callable[..., Awaitable[Row]]
LIMIT = 500  # espalier.said_in_an_hour()
LINES = 10_000  # espalier.lines_of_no_run()


def report(seq: int, kind: str, **data: Any) -> Row:
    return {"seq": seq, "kind": kind, "at": AT, "data": data}


async def events_of(store: Store, node: Row) -> list[Row]:
    return await store.rows("event_list", {"node_id": node["id"]}, limit=1000)


async def test_a_node_is_heard_so_often_in_an_hour_and_then_counted_alone(
    store: Store, node: Row, enrol: Enrol, database_url: str
) -> None:
    first = await store.accept_reports(node["id"], "spool", [report(seq, "gossip") for seq in range(1, 601)])
    assert (first["applied_seq"], first["refused"]) == (600, 600)
    told = [event["data"] for event in first["events"]]
    assert [data["what"] for data in told] == ["report.refused"] * (LIMIT - 1) + ["node.noisy"]
    assert told[-1] == {"what": "node.noisy", "in_an_hour": LIMIT}
    assert {event["name"] for event in first["events"]} == {"fl.client.warned"}
    second = await store.accept_reports(node["id"], "another spool", [report(1, "gossip"), report(2, "gossip")])
    assert (second["applied_seq"], second["refused"], second["events"]) == (2, 2, [])
    other = await enrol("site-b")
    assert len((await store.accept_reports(other["id"], "spool", [report(1, "gossip")]))["events"]) == 1
    with psycopg.connect(database_url) as connection:
        refused = connection.execute("select spool_id, refused from report_spools where node_id = %s", [node["id"]]).fetchall()
        assert sorted(refused) == [("another spool", 2), ("spool", 600)]
        connection.execute("update nodes set said_since = said_since - interval '1 hour'")
    assert len((await store.accept_reports(node["id"], "spool", [report(601, "gossip")]))["events"]) == 1
    assert len(await events_of(store, node)) == LIMIT + 1


@pytest.mark.one_door
async def test_a_node_that_flaps_moves_on_when_its_events_are_spent(store: Store, node: Row) -> None:
    for number in range(LIMIT + 2):
        row = await store.beat(node["id"], {"supernode_state": "running" if number % 2 == 0 else "failed"})
        assert row["status"] == ("online" if number % 2 == 0 else "offline")
    assert len(await events_of(store, node)) == LIMIT


@pytest.mark.one_door
async def test_what_a_node_says_does_not_hide_that_it_is_gone(store: Store, node: Row) -> None:
    session = str(uuid4())
    await store.accept_reports(node["id"], "spool", [report(1, "session", session_id=session, status="running")])
    await store.accept_reports(node["id"], "spool", [report(seq, "gossip") for seq in range(2, 700)])
    gone = await store.accept_reports(node["id"], "spool", [report(700, "session", session_id=session, status="failed")])
    again = [report(701, "session", session_id=str(uuid4()), status="running")]
    back = await store.accept_reports(node["id"], "spool", again)
    assert [event["name"] for event in (*gone["events"], *back["events"])] == ["fl.client.dropped", "fl.client.joined"]
    assert (await store.rows("node_list", {"id": node["id"]}))[0]["session_status"] == "running"


@pytest.mark.one_door
async def test_that_a_node_is_lost_is_always_told(store: Store, node: Row, project: Row) -> None:
    for number in range(LIMIT + 3):
        await store.beat(node["id"], {"supernode_state": "running" if number % 2 == 0 else "failed"})
    assert [row["id"] for row in await store.mark_lost_nodes(project["id"], 0)] == [node["id"]]
    assert (await events_of(store, node))[-1]["data"]["to"] == "lost"


@pytest.mark.one_door
async def test_a_node_opens_so_many_sessions_in_an_hour(store: Store, node: Row, database_url: str) -> None:
    lines = [report(seq, "session", session_id=str(uuid4()), status="starting") for seq in range(1, 701)]
    answer = await store.accept_reports(node["id"], "spool", lines)
    assert (answer["applied_seq"], answer["refused"], len(answer["events"])) == (700, 200, 200)
    assert len(await store.rows("session_list", {"node_id": node["id"]}, limit=1000)) == LIMIT
    last = (await store.rows("session_list", {"node_id": node["id"], "status": "starting"}))[0]
    told = report(701, "session", session_id=last["id"], status="running")
    assert (await store.accept_reports(node["id"], "spool", [told]))["refused"] == 0


@pytest.mark.one_door
async def test_what_a_journal_says_of_a_node_is_never_dropped(store: Store, node: Row, run: Row, journal: Any) -> None:
    await store.accept_reports(node["id"], "spool", [report(seq, "gossip") for seq in range(1, 601)])
    journal.opened().round_opened(1, node["flower_node_id"]).update(1, node["flower_node_id"], "failed")
    answer = await store.apply_journal(run["id"], journal.records, 1)
    assert [event["data"].get("what") for event in answer["events"]][-1] == "update.failed"


@pytest.mark.one_door
async def test_a_node_has_at_most_ten_spools_and_the_latest_are_kept(store: Store, node: Row, database_url: str) -> None:
    for number in range(13):
        await store.accept_reports(node["id"], f"spool {number}", [report(1, "dropped", log_lines=1)])
    await store.accept_reports(node["id"], "spool 3", [report(2, "dropped", log_lines=1)])
    await store.accept_reports(node["id"], "spool 13", [])
    with psycopg.connect(database_url) as connection:
        kept = {spool for (spool,) in connection.execute("select spool_id from report_spools").fetchall()}
    assert kept == {"spool 3"} | {f"spool {number}" for number in range(5, 14)}


async def test_of_no_run_a_node_has_so_many_lines_and_a_run_that_is_adopted_makes_room(
    store: Store, project: Row, node: Row, enrol: Enrol
) -> None:
    seen = 0

    async def say(who: Row, seq: int, texts: list[str], flower_run_id: str = "77") -> list[str]:
        """Report lines; give those that are stored now and were not before."""
        nonlocal seen
        line = report(seq, "log", source="clientapp", flower_run_id=flower_run_id, lines=texts)
        await store.accept_reports(who["id"], "spool", [line])
        rows: list[Row] = []
        while page := await store.rows("log_list", None, seen, 1000):
            rows, seen = rows + page, page[-1]["key"]
        return [row["text"] for row in rows]

    for seq in range(1, 10):
        assert len(await say(node, seq, ["x"] * 1100)) == 1100
    *kept, notice = await say(node, 10, ["x"] * 1100)
    assert (len(kept), notice) == (100, f"{LINES} lines of no run are stored: further ones of this node are at the site alone.")
    assert await say(node, 11, ["x"]) == []
    other = await enrol("site-b")
    assert await say(other, 1, ["heard"]) == ["heard"]
    await store.append_log_lines(None, "superlink.log", 0, 1, [{"text": "of a SuperLink", "source": "superlink"}])
    run = await store.adopt_run(project["id"], "77", "9", "app", None, {})
    *adopted, newest = await say(node, 12, ["of a run"])  # both nodes' lines have new keys: whoever follows the run hears of them
    assert (adopted[0], len(adopted), newest) == ("of a SuperLink", 1 + LINES + 1 + 1, "of a run")
    assert await say(node, 13, ["of no run"], "78") == ["of no run"]
    assert {row["run_id"] for row in await store.rows("log_list", {"run_id": run["id"], "node_id": node["id"]})} == {run["id"]}


@pytest.mark.one_door
async def test_a_session_and_an_event_are_cut_to_a_size(store: Store, node: Row) -> None:
    session, long = str(uuid4()), "x" * 100_000
    lines = [
        report(1, "session", session_id=session, status="running", reason=long, last_lines=[*map(str, range(30)), long]),
        report(2, "session", session_id=session, status="running", runtime_config={"insecure": True}),
        report(3, "session", session_id=session, status="running", runtime_config={"long": long}),  # refused
        report(4, "clientapp", event="clientapp.died", reason=long),
        report(5, "dropped", log_lines=3, what="else", other=long, long_lines=long),
    ]
    answer = await store.accept_reports(node["id"], "spool", lines)
    assert answer["refused"] == 1
    (row,) = await store.rows("session_list", {"id": session})
    assert row["last_lines"] == [*map(str, range(11, 30)), "x" * 2000]
    assert (len(row["reason"]), row["runtime_config"]) == (2000, {"insecure": True})
    told = [event["data"] for event in answer["events"] if event["name"] == "fl.client.warned"]
    assert told.pop(0)["why"] == "runtime_config is longer than 65,536 characters."
    assert told == [{"what": "clientapp.died", "cut": True}, {"what": "spool.dropped", "log_lines": 3}]
