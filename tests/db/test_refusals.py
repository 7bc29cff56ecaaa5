"""What an event says of a refused line: what is wrong with it, and never what it held."""

import copy
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from db.door import Row
from db.store import Store
from tests.db.conftest import AT, BIG, Journal

WORD, NUMBER = "patient seventeen", 170_017
POISONS: list[Any] = [WORD, NUMBER, -NUMBER, f"{NUMBER}", [WORD], {WORD: WORD}, 10**30 + NUMBER, f"2026-11-22T{WORD}"]


def poisoned(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Put each poison in the place of each field of a record, and of each field of its objects."""
    for name, value in record.items():
        for poison in POISONS:
            yield record | {name: poison}
        if isinstance(value, dict):
            for inner in poisoned(value):
                yield record | {name: inner}


def refused(events: list[Row], what: str) -> list[Row]:
    found = [event["data"] for event in events if event["data"].get("what") == what]
    assert all(set(data) == {"what", "seq", "kind", "why"} for data in found)
    return found


def assert_none_tells(data: list[Row]) -> None:
    for one in data:
        told = json.dumps({name: value for name, value in one.items() if name != "seq"})
        assert WORD not in told, told
        assert str(NUMBER) not in told, told


async def test_no_refusal_of_a_record_repeats_what_it_held(store: Store, run: Row) -> None:
    whole = Journal().opened().whole_round(1, BIG).artifact().add("run.paused", after_round=1).closed()
    bad = [one for record in whole.records for one in poisoned({name: record[name] for name in record if name != "seq"})]
    records = [copy.deepcopy(record) | {"seq": seq} for seq, record in enumerate(bad, 1)]
    answer = await store.apply_journal(run["id"], records, 1)
    data = refused(answer["events"], "journal.refused")
    assert len(data) == answer["refused"] > 200
    assert_none_tells(data)
    assert {one["kind"] for one in data} == {record["kind"] for record in whole.records} | {None}
    assert len({one["why"] for one in data}) > 12


async def test_no_refusal_of_a_report_repeats_what_it_held(store: Store, node: Row, database_url: str) -> None:
    told: dict[str, dict[str, Any]] = {
        "session": {"session_id": str(uuid4()), "status": "running", "pid": 1, "flower_node_id": "5", "runtime_config": {}},
        "inventory": {"hardware": {}, "datasets": []},
        "log": {"source": "clientapp", "flower_run_id": "9", "lines": ["a"]},
        "clientapp": {"event": "message.started", "flower_run_id": "9"},
        "dropped": {"log_lines": 1},
    }
    bad = [one for kind, data in told.items() for one in poisoned({"kind": kind, "at": AT, "data": data})]
    answers = []
    for number, line in enumerate(bad):  # each in a spool of its own, and in an hour of its own
        answers.append(await store.accept_reports(node["id"], f"spool {number}", [line | {"seq": 1}]))
        if number % 400 == 399:
            with psycopg.connect(database_url) as connection:
                connection.execute("update nodes set said = 0")
    data = refused([event for answer in answers for event in answer["events"]], "report.refused")
    assert len(data) == sum(answer["refused"] for answer in answers) > 60
    assert_none_tells(data)
    assert {one["kind"] for one in data} == {*told, None}


@pytest.mark.one_door
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"metrics": {"loss": WORD}}, "A value has the wrong type (SQLSTATE 22023)."),
        ({"round": WORD}, "A value is no integer (SQLSTATE 22P02)."),
        ({"round": 10**12}, "A number is out of range (SQLSTATE 22003)."),
        ({"status": WORD}, "A value is not allowed (node_updates_status_is_known) (SQLSTATE 23514)."),
        ({"node_id": WORD}, "A value is not allowed (flower_id_is_uint64) (SQLSTATE 23514)."),
        ({"node_id": None}, "flower_node_id is missing (SQLSTATE 23502)."),
        ({"cause": WORD}, "A cause is an object."),
        ({"status": "sent"}, "An update record says what became of the message."),
        ({"at": WORD}, "at is no time."),
        ({"kind": WORD}, "Its kind is unknown."),
    ],
)
async def test_a_refusal_says_what_is_wrong(store: Store, run: Row, change: dict[str, Any], why: str) -> None:
    journal = Journal().opened().round_opened(1, BIG).update(1, BIG)
    journal.records[2] |= change
    answer = await store.apply_journal(run["id"], journal.records, 1)
    (data,) = refused(answer["events"], "journal.refused")
    assert data["why"] == why


@pytest.mark.one_door
async def test_a_kind_of_error_that_is_no_name_is_told_as_an_error(store: Store, run: Row, node: Row) -> None:
    journal = Journal().opened().round_opened(1, BIG)
    for kind in ("KeyError", "torch.OutOfMemoryError", WORD, {WORD: 1}, "K" * 101):
        journal.update(1, BIG, "failed", cause={"type": kind, "message": WORD})
    answer = await store.apply_journal(run["id"], journal.closed("failed", {"type": WORD, "node_id": WORD}).records, 1)
    told = [event["data"] for event in answer["events"] if event["name"] == "fl.client.warned"]
    assert [data["type"] for data in told] == ["KeyError", "torch.OutOfMemoryError", "Error", "Error", "Error"]
    assert answer["events"][-1]["data"]["cause"] == {"type": "Error", "node_id": None}
