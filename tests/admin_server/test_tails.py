"""Journal and log, read on from where the store is: each line once, a torn one later, a malformed one never."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from admin_server.replay import replayed
from admin_server.rundir import RunDirectory
from admin_server.settings import Settings
from admin_server.watch import tails
from admin_server.watch.tails import JournalTail, ServerLogTail
from control_plane.errors import Conflict

from db.errors import DatabaseUnavailable
from tests.admin_server.admin_app import RECORDS, Server, record, started_run

VIEWS = ("round_list", "update_list", "metric_list", "artifact_list", "event_list")
OWN_KEYS = {"key", "activity", "received_at"}  # numbers of rows, which a replay gives anew


@pytest.fixture
def directory(server: Server) -> RunDirectory:
    folder = server.home / "runs" / "900"
    (folder / "attempts" / "77").mkdir(parents=True)
    return RunDirectory(folder)


def write(path: Path, *records: dict[str, Any], end: str = "\n") -> None:
    with path.open("a") as file:
        file.write("\n".join(json.dumps(line) for line in records) + end)


async def rows(server: Server, run_id: str) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for view in VIEWS:
        of_run = await server.store.rows(view, {"run_id": run_id}, limit=1000)
        found[view] = [{name: value for name, value in row.items() if name not in OWN_KEYS} for row in of_run]
    return found


async def test_a_journal_becomes_rows_and_ends_the_run(server: Server, directory: RunDirectory) -> None:
    run = await started_run(server)
    write(directory.journal, *RECORDS)
    await JournalTail(server.store, run["id"], directory).catch_up()
    shown = (await server.admin.get(f"/runs/{run['id']}")).json()
    stored = {view: len(found) for view, found in (await rows(server, run["id"])).items()}
    assert (shown["status"], shown["rounds_done"], shown["num_rounds"]) == ("completed", 1, 1)
    assert shown["metrics"]["accuracy"] == 0.9
    assert shown["rows"] == {
        "rounds": 1,
        "updates": 2,
        "metrics": stored["metric_list"],
        "log_lines": 0,
        "events": stored["event_list"],
    }
    (closed,) = (await server.admin.get(f"/runs/{run['id']}/rounds")).json()["items"]
    assert (closed["counted"], closed["expected"], closed["bytes_up"]) == (1, 2, 11)
    updates = (await server.admin.get(f"/runs/{run['id']}/updates", params={"status": "failed"})).json()["items"]
    assert [update["cause"]["type"] for update in updates] == ["KeyError"]
    (artifact,) = (await server.admin.get(f"/runs/{run['id']}/artifacts")).json()["items"]
    assert (artifact["role"], artifact["path"]) == ("final", "models/final.safetensors")


async def test_any_of_its_three_ids_names_a_run(server: Server) -> None:
    run = await started_run(server)
    for name in (run["id"], "77", "900"):
        shown = (await server.admin.get(f"/runs/{name}")).json()
        assert (shown["id"], shown["run_dir"]) == (run["id"], str(server.home / "runs" / "900"))
    for name in ("78", "nobody", "11111111-1111-4111-8111-111111111111"):
        answer = await server.admin.get(f"/runs/{name}")
        assert (answer.status_code, answer.json()["run_id"]) == (404, name)


async def test_a_torn_line_waits_until_it_is_whole(server: Server, directory: RunDirectory) -> None:
    run = await started_run(server)
    tail = JournalTail(server.store, run["id"], directory)
    whole = json.dumps(RECORDS[0]) + "\n"
    directory.journal.write_text(whole[:-20])
    assert await tail.catch_up() == []
    with directory.journal.open("a") as file:
        file.write(whole[-20:])
    assert [line["kind"] for line in await tail.catch_up()] == ["run.opened"]


async def test_a_second_reader_from_the_start_changes_nothing(server: Server, directory: RunDirectory) -> None:
    run = await started_run(server)
    write(directory.journal, *RECORDS)
    await JournalTail(server.store, run["id"], directory).catch_up()
    before = await rows(server, run["id"])
    assert len(before["update_list"]) == 2
    await JournalTail(server.store, run["id"], directory).catch_up()
    assert await rows(server, run["id"]) == before


async def test_records_of_batches_before_one_that_failed_are_given_next_time(
    server: Server, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await started_run(server)
    write(directory.journal, *RECORDS[:5])
    monkeypatch.setattr(tails, "BATCH", 2)
    apply, calls = server.store.apply_journal, 0

    async def failing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise DatabaseUnavailable("away")
        return await apply(*args)

    monkeypatch.setattr(server.store, "apply_journal", failing)
    tail = JournalTail(server.store, run["id"], directory)
    with pytest.raises(DatabaseUnavailable):
        await tail.catch_up()
    assert [line["seq"] for line in await tail.catch_up()] == [1, 2, 3, 4, 5]
    assert await tail.catch_up() == []


async def test_what_was_applied_before_can_be_looked_at_again(
    server: Server, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await started_run(server)
    write(directory.journal, *RECORDS[:4])
    await JournalTail(server.store, run["id"], directory).catch_up()
    offset = directory.journal.stat().st_size
    write(directory.journal, RECORDS[4])
    tail = JournalTail(server.store, run["id"], directory, offset)
    assert [line["seq"] for line in tail.look_back()] == [1, 2, 3, 4]
    monkeypatch.setattr(tails, "LOOK_BACK_BYTES", len(json.dumps(RECORDS[3])) + 10)
    assert [line["seq"] for line in tail.look_back()] == [4]
    assert [line["seq"] for line in await tail.catch_up()] == [5]


async def test_a_malformed_line_is_logged_and_passed_over(
    server: Server, directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    run = await started_run(server)
    write(directory.journal, RECORDS[0], {**RECORDS[3], "needed": "two"}, record(5, "unheard"))
    with directory.journal.open("a") as file:
        file.write("not even JSON\n")
    write(directory.journal, RECORDS[3])
    with caplog.at_level(logging.WARNING):
        applied = await JournalTail(server.store, run["id"], directory).catch_up()
    assert [line["seq"] for line in applied] == [1, 4]
    refused = [entry.getMessage() for entry in caplog.records if "is refused" in entry.getMessage()]
    assert len(refused) == 3
    assert "round.opened.needed" in refused[0]


async def test_replay_gives_equal_rows(server: Server, settings: Settings, directory: RunDirectory) -> None:
    run = await started_run(server)
    write(directory.journal, *RECORDS)
    await JournalTail(server.store, run["id"], directory).catch_up()
    before = await rows(server, run["id"])
    told = await replayed(server.store, settings, "77")
    assert f"{len(RECORDS)} records" in told
    after = await rows(server, run["id"])
    for view in VIEWS:
        assert sorted(map(str, after[view])) == sorted(map(str, before[view])), view


async def test_a_run_that_is_still_written_is_not_replayed(server: Server, settings: Settings) -> None:
    run = await started_run(server)
    with pytest.raises(Conflict, match="still being written"):
        await replayed(server.store, settings, run["id"])


async def test_each_line_of_a_server_log_is_one_row(server: Server, directory: RunDirectory) -> None:
    run = await started_run(server)
    log = directory.server_log("77")
    log.write_bytes("INFO :      ärger\n\n\x1b[33mWARNING \x1b[0m: slow\ntorn".encode())
    await ServerLogTail(server.store, run["id"], directory, "77").catch_up()
    with log.open("ab") as file:
        file.write(b" line\n")
    await ServerLogTail(server.store, run["id"], directory, "77").catch_up()  # another reader, as after a restart
    shown = (await server.admin.get(f"/runs/{run['id']}/logs")).json()["items"]
    assert [(line["level"], line["text"], line["source"]) for line in shown] == [
        ("info", "INFO :      ärger", "serverapp"),
        ("warning", "WARNING : slow", "serverapp"),
        ("info", "torn line", "serverapp"),
    ]
    warned = (await server.admin.get(f"/runs/{run['id']}/logs", params={"level": "warning"})).json()["items"]
    assert [line["text"] for line in warned] == ["WARNING : slow"]


async def test_two_readers_at_once_do_not_double_lines(server: Server, directory: RunDirectory) -> None:
    run = await started_run(server)
    log = directory.server_log("77")
    first, second = (ServerLogTail(server.store, run["id"], directory, "77") for _ in range(2))
    log.write_text("a\n")
    await first.catch_up()
    await second.catch_up()
    with log.open("a") as file:
        file.write("b\n")
    await first.catch_up()
    with log.open("a") as file:
        file.write("c\n")
    await second.catch_up()
    shown = (await server.admin.get(f"/runs/{run['id']}/logs")).json()["items"]
    assert [line["text"] for line in shown] == ["a", "b", "c"]
