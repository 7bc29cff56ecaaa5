import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from db.door import Row
from db.errors import NoSuchRow
from db.store import Store

BIG = "18446744073709551615"
SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs" / "journal.schema.json").read_text())
PROJECTION = ("round_list", "update_list", "metric_list", "artifact_list")


def names(events: list[Row]) -> list[str]:
    return [event["name"] for event in events]


async def picture(store: Store, run: Row) -> dict[str, list[Row]]:
    """Read all that a journal gives, without the keys that a replay renews."""
    rows = {
        view: await store.rows(view, {"run_id": run["id"]}, limit=1000) for view in (*PROJECTION, "event_list", "attempt_list")
    }
    rows["run_list"] = await store.rows("run_list", {"id": run["id"]})
    return {
        view: sorted(({name: row[name] for name in row if name != "key"} for row in page), key=repr)
        for view, page in rows.items()
    }


async def test_a_whole_run_is_projected(store: Store, run: Row, node: Row, journal: Any) -> None:
    journal.opened(2).whole_round(1, BIG, "5").whole_round(2, BIG).artifact().closed()
    answer = await store.apply_journal(run["id"], journal.records, 4000)
    assert (answer["journal_seq"], answer["journal_offset"], answer["refused"], answer["status"]) == (10, 4000, 0, "completed")
    assert names(answer["events"]) == [
        "fl.federation.started",
        *(["fl.round.started", "fl.aggregate.completed", "fl.round.completed"] * 2),
        "fl.federation.completed",
    ]
    (row,) = await store.rows("run_list")
    assert (row["status"], row["rounds_done"], row["num_rounds"], row["seconds"]) == ("completed", 2, 2, 9)
    assert row["metrics"] == {"loss": 1.5, "accuracy": 0.9}
    assert row["opened"]["workload"] == "digits"
    assert row["started_at"] == datetime(2026, 11, 22, 8, 0, 1, tzinfo=UTC)
    one, two = await store.rows("round_list", {"run_id": run["id"]})
    assert (one["status"], one["nodes"], one["expected"], one["counted"], one["num_examples"]) == ("closed", [BIG, "5"], 2, 2, 20)
    assert (one["seconds"], one["aggregate_s"], one["bytes_down"], one["bytes_up"], one["attempt"]) == (2.5, 0.1, 100, 90, "77")
    assert one["commit"]["file"] == "commit/round-1.safetensors"
    assert (one["opened_at"], one["closed_at"]) == (
        datetime(2026, 11, 22, 8, 0, 2, tzinfo=UTC),
        datetime(2026, 11, 22, 8, 0, 5, tzinfo=UTC),
    )
    assert two["round"] == 2
    (artifact,) = await store.rows("artifact_list")
    assert (artifact["uri"], artifact["role"], artifact["size_bytes"], artifact["parents"]) == (
        "models/final.safetensors",
        "final",
        40,
        [],
    )


@pytest.mark.one_door
async def test_updates_are_known_by_their_node_and_an_unknown_node_keeps_its_flower_id(
    store: Store, run: Row, node: Row, journal: Any
) -> None:
    await store.apply_journal(run["id"], journal.opened().round_opened(1, BIG, "5").update(1, BIG).records, 1)
    known, unknown = await store.rows("update_list", {"round": 1})
    assert (known["node_id"], known["flower_node_id"], known["node_name"]) == (node["id"], BIG, "Site site-a")
    assert (known["status"], known["num_examples"], known["metrics"], known["counted_in_round"]) == (
        "counted",
        10,
        {"loss": 1.5},
        1,
    )
    assert (known["timings"], known["bytes_up"], known["message_id"], known["tries"]) == ({"total_s": 1.0}, 90, f"m1-{BIG}", 1)
    assert (unknown["node_id"], unknown["flower_node_id"], unknown["status"]) == (None, "5", "sent")
    metrics = await store.rows("metric_list", {"run_id": run["id"]})
    assert [(row["scope"], row["node_id"], row["name"], row["value"]) for row in metrics] == [("node", node["id"], "loss", 1.5)]


@pytest.mark.one_door
@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_batches_of_any_size_give_the_same_rows(
    store: Store, project: Row, journal: Any, run: Row, size: int, database_url: str
) -> None:
    journal.opened(2).whole_round(1, BIG, "5").whole_round(2, BIG).artifact().closed()
    await store.apply_journal(run["id"], journal.records, 4000)
    whole = await picture(store, run)
    await store.forget_projection(run["id"])
    for start in range(0, len(journal.records), size):
        await store.apply_journal(run["id"], journal.records[start : start + size], 4000)
    assert await picture(store, run) == whole


async def test_the_same_batch_twice_and_overlapping_batches_change_nothing(store: Store, run: Row, journal: Any) -> None:
    journal.opened(2).whole_round(1, BIG, "5").whole_round(2, BIG, "5").closed()
    await store.apply_journal(run["id"], journal.records[:6], 600)
    await store.apply_journal(run["id"], journal.records[3:9], 900)
    again = await store.apply_journal(run["id"], journal.records[:5], 500)
    assert (again["journal_seq"], again["journal_offset"], again["events"]) == (9, 900, [])
    await store.apply_journal(run["id"], journal.records, 1000)
    overlapping = await picture(store, run)
    assert (await store.apply_journal(run["id"], journal.records, 1000))["events"] == []
    assert await picture(store, run) == overlapping
    assert [row["rounds_done"] for row in overlapping["run_list"]] == [2]


async def test_a_replay_gives_the_same_rows(store: Store, run: Row, node: Row, journal: Any) -> None:
    journal.opened().whole_round(1, BIG).add("run.paused", after_round=1).add("run.resumed", after_round=1)
    journal.round_opened(2, BIG).update(2, BIG, "failed", num_examples=None, metrics={}, cause={"type": "KeyError"})
    journal.artifact().closed("failed", {"node_id": BIG, "node_name": "x", "type": "KeyError", "message": "boom"})
    await store.apply_journal(run["id"], journal.records, 4000)
    before = await picture(store, run)
    assert [(row["status"], row["closed_at"]) for row in before["round_list"] if row["round"] == 2] == [
        ("failed", datetime(2026, 11, 22, 8, 0, 10, tzinfo=UTC))
    ]
    await store.forget_projection(run["id"])
    assert [len(await store.rows(view, {"run_id": run["id"]})) for view in PROJECTION] == [0, 0, 0, 0]
    await store.apply_journal(run["id"], journal.records, 4000)
    assert await picture(store, run) == before


async def test_eight_that_apply_the_same_journal_at_once_tell_each_event_once(store: Store, run: Row, journal: Any) -> None:
    journal.opened(4)
    for number in range(1, 5):
        journal.whole_round(number, BIG, "5")
    journal.closed()
    answers = await asyncio.gather(*(store.apply_journal(run["id"], journal.records[: 3 + 2 * n], 100 * n) for n in range(1, 9)))
    told = [event["key"] for answer in answers for event in answer["events"]]
    assert len(told) == len(set(told)) == 1 + 4 * 3 + (1 if len(journal.records) <= 19 else 0)
    assert max(answer["journal_seq"] for answer in answers) == min(19, len(journal.records))


async def test_a_malformed_record_is_refused_and_warned_of_and_the_rest_goes_on(store: Store, run: Row, journal: Any) -> None:
    journal.opened().round_opened(1, BIG)
    journal.add("round.exploded").add("update", round="one", node_id=BIG, status="counted")
    journal.update(1, BIG, metrics={"loss": "low"}).update(1, "-3").update(1, BIG, status="lovely").update(1, BIG, status="sent")
    journal.update(1, BIG).round_closed(1, commit=None).round_closed(1, num_examples=1.5).round_closed(1)
    journal.records[2]["at"] = "yesterday"
    records = [*journal.records, "no object", None, {"kind": "update"}, {"seq": "x"}, {"seq": 2.5}]
    answer = await store.apply_journal(run["id"], records, 9)
    assert (answer["refused"], answer["journal_seq"]) == (13, len(journal.records))
    refused = [event["data"] for event in answer["events"] if event["name"] == "fl.client.warned"]
    assert [data["seq"] for data in refused] == [3, 4, 5, 6, 7, 8, 10, 11, None, None, None, None, None]
    assert {data["what"] for data in refused} == {"journal.refused"}
    (closed,) = await store.rows("round_list")
    (update,) = await store.rows("update_list")
    assert (closed["status"], update["status"], update["tries"]) == ("closed", "counted", 1)
    assert (await store.rows("run_list"))[0]["warnings"] == 13
    assert (await store.apply_journal(run["id"], records, 9))["events"] == []


@pytest.mark.one_door
async def test_a_refused_record_of_any_kind_keeps_its_kind(store: Store, run: Row, journal: Any) -> None:
    kinds = [each["properties"]["kind"]["const"] for each in SCHEMA["$defs"].values() if "kind" in each["properties"]]
    for kind in kinds:
        journal.add(kind, at="yesterday")
    answer = await store.apply_journal(run["id"], journal.records, 9)
    assert answer["refused"] == len(kinds)
    assert [event["data"]["kind"] for event in answer["events"]] == kinds


async def test_values_that_jsonb_refuses_do_not_spoil_a_batch(store: Store, run: Row, journal: Any) -> None:
    journal.opened().round_opened(1, BIG, "5").update(1, BIG, metrics={"loss": float("nan")})
    journal.update(1, "5", facts={"note": "a\x00b\ud800c"})
    answer = await store.apply_journal(run["id"], journal.records, 9)
    assert answer["refused"] == 1
    rows = {row["flower_node_id"]: row for row in await store.rows("update_list")}
    assert rows[BIG]["status"] == "sent"
    assert rows["5"]["facts"] == {"note": "a\ufffdb\ufffdc"}


@pytest.mark.one_door
async def test_an_update_that_failed_is_a_warning_with_its_cause_in_the_row(
    store: Store, run: Row, node: Row, journal: Any
) -> None:
    cause = {"node_id": BIG, "node_name": "a", "type": "KeyError", "message": "boom", "traceback": "t", "last_lines": ["l"]}
    journal.opened().round_opened(1, BIG).update(1, BIG, "failed", num_examples=None, metrics={}, cause=cause)
    answer = await store.apply_journal(run["id"], journal.records, 9)
    (update,) = await store.rows("update_list")
    assert (update["status"], update["num_examples"], update["cause"], update["counted_in_round"]) == (
        "failed",
        None,
        cause,
        None,
    )
    event = answer["events"][-1]
    assert (event["name"], event["node_id"], event["round"]) == ("fl.client.warned", node["id"], 1)
    assert event["data"] == {"what": "update.failed", "flower_node_id": BIG, "type": "KeyError"}


@pytest.mark.one_door
async def test_a_site_short_of_memory_is_a_warning_without_its_words(store: Store, run: Row, node: Row, journal: Any) -> None:
    journal.opened().round_opened(1, BIG).update(1, BIG, facts={"memory_warning": "the fit took 9.5 of 10.0 GB RAM"})
    answer = await store.apply_journal(run["id"], journal.records, 9)
    event = answer["events"][-1]
    assert (event["name"], event["node_id"]) == ("fl.client.warned", node["id"])
    assert event["data"] == {"what": "update.memory", "flower_node_id": BIG}
    assert [row["status"] for row in await store.rows("update_list")] == ["counted"]


@pytest.mark.one_door
async def test_a_late_update_is_recorded_after_its_round_closed_and_one_that_counted_stays(
    store: Store, run: Row, journal: Any
) -> None:
    journal.opened().round_opened(1, BIG, "5").update(1, BIG).round_closed(1).update(1, "5", "late").update(1, BIG, "late")
    answer = await store.apply_journal(run["id"], journal.records, 9)
    assert answer["refused"] == 1
    rows = await store.rows("update_list", {"round": 1})
    assert [(row["flower_node_id"], row["status"], row["tries"]) for row in rows] == [(BIG, "counted", 1), ("5", "late", 1)]


@pytest.mark.one_door
async def test_a_new_attempt_opens_a_round_again_that_was_not_closed(store: Store, run: Row, journal: Any) -> None:
    journal.opened().round_opened(1, BIG, "5", "6").update(1, BIG).update(1, "5", "failed", num_examples=None)
    await store.apply_journal(run["id"], journal.records, 1)
    await store.begin_attempt(run["id"], "78", "9")
    journal.attempt = "78"
    journal.opened().round_opened(1, BIG, "5").update(1, BIG, num_examples=11)
    answer = await store.apply_journal(run["id"], journal.records, 2)
    assert answer["refused"] == 0
    (row,) = await store.rows("round_list")
    assert (row["status"], row["tries"], row["attempt"], row["nodes"], row["expected"]) == ("open", 2, "78", [BIG, "5"], 2)
    rows = await store.rows("update_list", {"round": 1})
    assert [(row["flower_node_id"], row["status"], row["tries"], row["attempt"], row["num_examples"]) for row in rows] == [
        (BIG, "counted", 2, "78", 11),
        ("5", "sent", 2, "78", None),
        ("6", "lost", 1, "77", None),
    ]
    attempts = await store.rows("attempt_list")
    assert [(row["flower_run_id"], row["status"]) for row in attempts] == [("77", "lost"), ("78", "running")]


@pytest.mark.one_door
async def test_what_counted_in_a_try_that_a_crash_undid_is_lost_unless_its_node_is_asked_again(
    store: Store, run: Row, journal: Any
) -> None:
    journal.opened().whole_round(1, BIG, "5", "6").round_opened(2, BIG, "5", "6").update(2, BIG).update(2, "6")
    await store.apply_journal(run["id"], journal.records, 1)
    await store.begin_attempt(run["id"], "78", "9")
    journal.attempt = "78"
    journal.opened(resumed_after=1).whole_round(2, BIG, "5").artifact(round=2)
    assert (await store.apply_journal(run["id"], journal.records, 2))["refused"] == 0
    (closed,) = await store.rows("round_list", {"round": 2})
    rows = await store.rows("update_list", {"round": 2})
    assert [(row["flower_node_id"], row["status"], row["counted_in_round"], row["num_examples"]) for row in rows] == [
        (BIG, "counted", 2, 10),
        ("5", "counted", 2, 10),
        ("6", "lost", None, None),
    ]
    assert (closed["counted"], closed["num_examples"]) == (2, 20)
    assert (rows[-1]["metrics"], rows[-1]["cause"]["type"], rows[-1]["tries"]) == ({}, "RoundReopened", 1)
    metrics = await store.rows("metric_list", {"round": 2, "scope": "node"})
    assert {row["flower_node_id"] for row in metrics} == {BIG, "5"}
    (artifact,) = await store.rows("artifact_list")
    model = await store.add_model(
        run["project_id"], artifact["id"], artifact["sha256"], "models/x", "admin", "whose data is in it"
    )
    sources = await store.rows("model_source_list", {"model_id": model["id"]})
    assert {row["flower_node_id"]: (row["updates"], row["last_round"]) for row in sources} == {
        BIG: (2, 2),
        "5": (2, 2),
        "6": (1, 1),
    }


@pytest.mark.one_door
async def test_a_record_of_a_new_attempt_replaces_an_update_of_an_open_round_only(store: Store, run: Row, journal: Any) -> None:
    journal.opened().whole_round(1, BIG).round_opened(2, BIG).update(2, BIG)
    journal.attempt = "78"
    journal.update(1, BIG, num_examples=99).update(2, BIG, num_examples=99)
    answer = await store.apply_journal(run["id"], journal.records, 2)
    assert answer["refused"] == 1
    rows = await store.rows("update_list")
    assert [(row["round"], row["num_examples"], row["tries"]) for row in rows] == [(1, 10, 1), (2, 99, 2)]


@pytest.mark.one_door
async def test_a_closed_round_is_neither_opened_nor_closed_again(store: Store, run: Row, journal: Any) -> None:
    journal.opened().whole_round(1, BIG).round_opened(1, BIG).round_closed(1, num_examples=99)
    answer = await store.apply_journal(run["id"], journal.records, 2)
    assert answer["refused"] == 2
    (row,) = await store.rows("round_list")
    assert (row["status"], row["tries"], row["num_examples"]) == ("closed", 1, 10)


@pytest.mark.one_door
async def test_pausing_and_resuming_moves_the_run_and_is_told(store: Store, run: Row, journal: Any) -> None:
    journal.opened().whole_round(1, BIG).add("run.paused", after_round=1)
    answer = await store.apply_journal(run["id"], journal.records, 1)
    assert (answer["status"], names(answer["events"])[-1]) == ("paused", "fl.federation.paused")
    journal.add("run.resumed", after_round=1)
    answer = await store.apply_journal(run["id"], journal.records, 2)
    assert (answer["status"], names(answer["events"])) == ("running", ["fl.federation.resumed"])


@pytest.mark.one_door
async def test_the_journals_end_decides_over_what_the_server_concluded(store: Store, run: Row, journal: Any) -> None:
    await store.apply_journal(run["id"], journal.opened().whole_round(1, BIG).records, 1)
    await store.move_run(run["id"], "failed", {"type": "ServerAppDied"})
    answer = await store.apply_journal(run["id"], journal.closed("completed").records, 2)
    assert (answer["status"], names(answer["events"])) == ("completed", ["fl.federation.completed"])
    (row,) = await store.rows("run_list")
    assert (row["status"], row["cause"]) == ("completed", None)
    (attempt,) = await store.rows("attempt_list")
    assert attempt["status"] == "completed"
    assert await store.move_run(run["id"], "failed") is None


@pytest.mark.one_door
async def test_an_end_that_the_server_concluded_first_is_told_once_and_gets_the_journals_cause(
    store: Store, run: Row, journal: Any
) -> None:
    await store.apply_journal(run["id"], journal.opened().records, 1)
    ended = await store.move_run(run["id"], "failed")
    assert ended is not None
    answer = await store.apply_journal(run["id"], journal.closed("failed", {"type": "KeyError", "node_id": BIG}).records, 2)
    assert answer["events"] == []
    (row,) = await store.rows("run_list")
    assert (row["cause"]["type"], row["ended_at"]) == ("KeyError", ended["ended_at"])


@pytest.mark.one_door
async def test_a_started_run_is_told_once_whoever_says_it_first(store: Store, run: Row, journal: Any) -> None:
    moved = await store.move_run(run["id"], "running")
    assert moved is not None
    assert names(moved["events"]) == ["fl.federation.started"]
    assert names((await store.apply_journal(run["id"], journal.opened().records, 1))["events"]) == []


@pytest.mark.one_door
async def test_the_end_of_an_attempt_with_a_later_one_does_not_end_the_run(
    store: Store, run: Row, journal: Any, new_journal: Callable[[str], Any]
) -> None:
    await store.apply_journal(run["id"], journal.opened().records, 1)
    await store.begin_attempt(run["id"], "78", "9")
    answer = await store.apply_journal(run["id"], journal.closed("failed").records, 2)
    assert answer["status"] == "running"
    rows = await store.rows("attempt_list")
    assert [(row["flower_run_id"], row["status"]) for row in rows] == [("77", "failed"), ("78", "starting")]


@pytest.mark.one_door
async def test_rounds_left_open_fail_when_their_run_ends(store: Store, run: Row, journal: Any) -> None:
    await store.apply_journal(run["id"], journal.opened().round_opened(1, BIG).records, 1)
    ended = await store.move_run(run["id"], "stopped")
    (row,) = await store.rows("round_list")
    assert ended is not None
    assert (row["status"], row["closed_at"]) == ("failed", ended["ended_at"])
    await store.apply_journal(run["id"], journal.update(1, BIG).round_closed(1).records, 2)
    assert [row["status"] for row in await store.rows("round_list")] == ["closed"]


async def test_times_of_any_zone_are_stored_as_the_same_moment(store: Store, run: Row, journal: Any, database_url: str) -> None:
    journal.opened().round_opened(1, BIG)
    journal.records[1]["at"] = "2026-11-22T10:30:00.123+02:00"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "do $$ begin execute format('alter database %I set timezone = %L', current_database(), 'Asia/Tokyo'); end $$"
        )
    await store.apply_journal(run["id"], journal.records, 1)
    (row,) = await store.rows("round_list")
    assert row["opened_at"] == datetime(2026, 11, 22, 8, 30, 0, 123000, tzinfo=UTC)
    assert row["opened_at"].tzinfo is UTC


async def test_a_promoted_artifact_survives_a_replay(store: Store, run: Row, journal: Any) -> None:
    journal.opened().artifact()
    await store.apply_journal(run["id"], journal.records, 1)
    (artifact,) = await store.rows("artifact_list")
    await store.add_model(run["project_id"], artifact["id"], artifact["sha256"], "models/x", "admin", "it is good")
    await store.forget_projection(run["id"])
    await store.apply_journal(run["id"], journal.records, 1)
    assert await store.rows("artifact_list") == [artifact]
    (model,) = await store.rows("model_list")
    assert (model["artifact_id"], model["uri"], model["version"]) == (artifact["id"], "models/x", 1)


async def test_a_journal_of_an_unknown_run_is_refused(store: Store, journal: Any) -> None:
    with pytest.raises(NoSuchRow):
        await store.apply_journal(str(uuid4()), journal.opened().records, 1)
    with pytest.raises(NoSuchRow):
        await store.forget_projection(str(uuid4()))


@pytest.mark.one_door
async def test_a_removed_nodes_flower_id_is_found_only_where_no_node_of_today_has_it(
    store: Store, project: Row, node: Row, enrol: Callable[..., Awaitable[Row]], run: Row, journal: Any
) -> None:
    await store.remove_node(node["id"])
    today = await enrol("site-b", BIG)
    await store.apply_journal(run["id"], journal.opened().round_opened(1, BIG).records, 1)
    assert [row["node_id"] for row in await store.rows("update_list")] == [today["id"]]
