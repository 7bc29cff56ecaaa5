"""Compare a run's rows with its journal, line by line."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.federation.stack import Json, Stack

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
        _equal(
            row,
            closed[row["round"]],
            ("counted", "expected", "num_examples", "metrics", "server_metrics", "bytes_down", "bytes_up"),
        )

    assert_counted_once(journal)
    last_update = {(u["round"], u["node_id"]): u for u in journal if u["kind"] == "update"}
    updates = stack.admin.items(f"/runs/{run_id}/updates")
    assert Counter((u["round"], u["flower_node_id"]) for u in updates) == Counter(list(last_update))
    for row in updates:
        _equal(row, last_update[row["round"], row["flower_node_id"]], UPDATE)

    artifacts = stack.admin.items(f"/runs/{run_id}/artifacts")
    assert sorted(a["sha256"] for a in artifacts) == sorted(a["sha256"] for a in journal if a["kind"] == "artifact")


def assert_counted_once(journal: list[Json]) -> None:
    """Each committed round is the sum of the updates that its own attempt counted, one of each node."""
    for closed in (line for line in journal if line["kind"] == "round.closed"):
        counted = [
            line
            for line in journal
            if line["kind"] == "update"
            and (line["round"], line["attempt"], line["status"]) == (closed["round"], closed["attempt"], "counted")
        ]
        assert len({line["node_id"] for line in counted}) == len(counted) == closed["counted"]
        assert sum(line["num_examples"] for line in counted) == closed["num_examples"]


def assert_log_equals_file(stack: Stack, run_id: str) -> None:
    """Every line of the attempts' server.log is a row, once, in order, attempt by attempt."""
    folder = stack.run_folder(run_id) / "attempts"
    files = [folder / attempt["flower_run_id"] / "server.log" for attempt in stack.run(run_id)["attempts"]]
    expected = [line for file in files for line in file.read_text(errors="replace").splitlines() if line.strip()]
    rows = [line["text"] for line in stack.admin.items(f"/runs/{run_id}/logs") if line["source"] == "serverapp"]
    assert len(rows) == len(expected)
    for row, line in zip(rows, expected, strict=True):
        assert row.strip() in line


def _equal(row: Json, line: Json, names: tuple[str, ...]) -> None:
    def picked(source: dict[str, Any]) -> Json:
        return {name: source.get(name) for name in names}

    assert picked(row) == picked(line)
