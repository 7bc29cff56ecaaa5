"""Compare a run's rows with its journal, line by line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tests.federation.stack import Json, Stack, is_alive, process_record, wait_for

ROUND = ("counted", "expected", "num_examples", "metrics", "server_metrics", "bytes_down", "bytes_up")
UPDATE = ("status", "num_examples", "metrics", "bytes_down", "bytes_up", "cause")


def assert_rows_equal_journal(stack: Stack, run_id: str) -> None:
    """The journal is the truth, the database its projection: nothing twice, nothing missing, nothing different."""
    journal = stack.journal(run_id)
    assert [line["seq"] for line in journal] == list(range(1, len(journal) + 1))
    closed = {line["round"]: line for line in journal if line["kind"] == "round.closed"}
    assert len(closed) == sum(line["kind"] == "round.closed" for line in journal), "a round was committed twice"

    rounds = [r for r in stack.admin.items(f"/runs/{run_id}/rounds") if r["status"] == "closed"]
    assert [r["round"] for r in rounds] == sorted(closed)
    for row in rounds:
        _equal(row, closed[row["round"]], ROUND)

    assert_counted_once(journal)
    last_words = said_last(journal)
    updates = stack.admin.items(f"/runs/{run_id}/updates")
    assert Counter((u["round"], u["flower_node_id"]) for u in updates) == Counter(list(last_words))
    for row in updates:
        said = last_words[row["round"], row["flower_node_id"]]
        if said is None:
            assert (row["status"], row["counted_in_round"]) == ("lost", None)
        else:
            _equal(row, said, UPDATE)
    for row in rounds:
        counted = [u for u in updates if u["kind"] == "train" and u["counted_in_round"] == row["round"]]
        assert {u["status"] for u in counted} <= {"counted"}
        assert (len(counted), sum(u["num_examples"] for u in counted)) == (row["counted"], row["num_examples"])

    artifacts = {a["uri"]: a["sha256"] for a in stack.admin.items(f"/runs/{run_id}/artifacts")}
    assert artifacts == {a["path"]: a["sha256"] for a in journal if a["kind"] == "artifact"}, "of each path the newest"

    metrics = stack.admin.items(f"/runs/{run_id}/metrics")
    values = {(m["round"], m["scope"], m["flower_node_id"], m["name"]): m["value"] for m in metrics}
    assert (len(metrics), values) == (len(values), numbers_of(journal))
    assert_told_once(journal, stack.admin.items(f"/runs/{run_id}/events"), stack.run(run_id))


def said_last(journal: list[Json]) -> dict[tuple[int, str], Json | None]:
    """Give what became of each node in each round, by round and node; None if its round began anew without it."""
    last: dict[tuple[int, str], Json | None] = {}
    for line in journal:
        if line["kind"] == "round.opened":
            undone = [
                key for key, said in last.items() if key[0] == line["round"] and (said is None or said["status"] == "counted")
            ]
            last |= dict.fromkeys([*undone, *((line["round"], node) for node in line["nodes"])])
        elif line["kind"] == "update":
            last[line["round"], line["node_id"]] = line
    return last


def numbers_of(journal: list[Json]) -> dict[tuple[int, str, str | None, str], float]:
    """Give the numbers of each round, by round, scope, node and name; a round that begins anew has none of its earlier tries."""
    numbers: dict[tuple[int, str, str | None, str], float] = {}
    guests: dict[int, list[tuple[int, str, str | None, str]]] = {}
    for line in journal:
        number: int = line.get("round", 0)
        if line["kind"] == "round.opened":
            undone = [key for key in numbers if key[0] == number] + guests.pop(number, [])
            numbers = {key: value for key, value in numbers.items() if key not in undone}
        elif line["kind"] == "update":
            said = {(number, "node", line["node_id"], name): value for name, value in line["metrics"].items()}
            numbers |= said
            if line["counted_in_round"] not in (None, number):
                guests.setdefault(line["counted_in_round"], []).extend(said)
        elif line["kind"] in ("round.closed", "round.scored"):
            numbers |= {(number, "clients", None, name): value for name, value in line["metrics"].items()}
            numbers |= {(number, "server", None, name): value for name, value in line.get("server_metrics", {}).items()}
    return numbers


def assert_told_once(journal: list[Json], events: list[Json], run: Json) -> None:
    """Each line's events are there once, in the journal's order; each attempt began once, and the run's end is told once."""
    names = {"round.opened": ("round.started",), "round.closed": ("aggregate.completed", "round.completed")}
    names |= {"run.paused": ("federation.paused",), "run.resumed": ("federation.resumed",)}
    told = [(event["journal_seq"], event["name"]) for event in events if event["journal_seq"] and not is_of_attempt(event)]
    said: list[tuple[int, str]] = []
    for line in journal:
        is_warning = line["kind"] == "update" and (line["status"] != "counted" or "memory_warning" in line["facts"])
        warned = ("client.warned",) if is_warning else ()
        said += [(line["seq"], f"fl.{name}") for name in names.get(line["kind"], warned)]
    assert told == said
    of_attempts = Counter((event["name"], event["data"]["attempt"]) for event in events if is_of_attempt(event))
    began = [("fl.federation.started", line["attempt"]) for line in journal if line["kind"] == "run.opened"]
    assert set(of_attempts.values()) <= {1}
    assert {*began, (f"fl.federation.{run['status']}", run["flower_run_id"])} <= of_attempts.keys()


def is_of_attempt(event: Json) -> bool:
    """Is it one that both the server and the journal may tell of, whoever is first?"""
    return event["name"] in [f"fl.federation.{name}" for name in ("started", "completed", "failed", "stopped")]


def assert_counted_once(journal: list[Json]) -> None:
    """Each committed round is the sum of the updates that its own attempt counted, one of each node."""
    for closed in (line for line in journal if line["kind"] == "round.closed"):
        counted = [
            line
            for line in journal
            if line["kind"] == "update" and (line["counted_in_round"], line["attempt"]) == (closed["round"], closed["attempt"])
        ]
        assert len({line["node_id"] for line in counted}) == len(counted) == closed["counted"]
        assert sum(line["num_examples"] for line in counted) == closed["num_examples"]


def assert_log_equals_file(stack: Stack, run_id: str) -> None:
    """Every line of the attempts' server.log is a row, once, in order, attempt by attempt.

    A run has ended with its journal's end line; its ServerApp and the wrapper around it say a few more words.
    """
    folders = [stack.run_folder(run_id) / "attempts" / attempt["flower_run_id"] for attempt in stack.run(run_id)["attempts"]]

    def lines_of_files() -> list[str]:
        texts = [(folder / "server.log").read_text(errors="replace") for folder in folders]
        return [line for text in texts for line in text.splitlines() if line.strip()]

    def lines_of_rows() -> list[str]:
        return [line["text"] for line in stack.admin.items(f"/runs/{run_id}/logs") if line["source"] == "serverapp"]

    def as_many() -> tuple[list[str], list[str]] | None:
        rows, lines = lines_of_rows(), lines_of_files()
        return (rows, lines) if len(rows) == len(lines) else None

    wait_for("the ServerApp to leave", lambda: not any(map(is_at_work, folders)), 30)
    rows, expected = wait_for("as many rows as lines", as_many, 20)
    for row, line in zip(rows, expected, strict=True):
        assert row.strip() in line


def is_at_work(folder: Path) -> bool:
    """Does the process live that a folder's proc.json names?"""
    record = process_record(folder)
    return record is not None and is_alive(record["pid"])


def _equal(row: Json, line: Json, names: tuple[str, ...]) -> None:
    def picked(source: dict[str, Any]) -> Json:
        return {name: source.get(name) for name in names}

    assert picked(row) == picked(line)
