"""What a run's journal and rows say: rounds that are missing, and what stands there twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable
from datetime import datetime
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tests.federation.stack import Json, Stack


def journal_of(run_dir: Path) -> list[Json]:
    """Read the whole lines of a journal; none while there is no file."""
    path = run_dir / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def next_round_at(run_dir: Path, after: float) -> float | None:
    """Say when the first round was opened after a moment; both wall clock in seconds."""
    opened = (moment(line) for line in journal_of(run_dir) if line["kind"] == "round.opened")
    return next((at for at in opened if at >= after), None)


def moment(line: Json) -> float:
    return datetime.fromisoformat(line["at"]).timestamp()


def lost_rounds(journal: list[Json], rows: list[Json], num_rounds: int) -> int:
    """Count the rounds that are not committed, in the journal or in the rows."""
    wanted = set(range(1, num_rounds + 1))
    closed = {line["round"] for line in journal if line["kind"] == "round.closed"}
    return len(wanted - closed) + len(closed - {row["round"] for row in rows if row["status"] == "closed"})


def rounds_with_fewer(rows: list[Json], sites: int) -> int:
    """Count the committed rounds in which not every site's update counts."""
    return sum(row["status"] == "closed" and row["counted"] != sites for row in rows)


def double_counts(journal: list[Json], rows: dict[str, list[Json]]) -> int:
    """Count committed rounds that stand twice, nodes counted twice in a round, sums unlike their parts, and rows twice.

    rows: of the run's rounds, updates and artifacts.
    """
    closed = [line for line in journal if line["kind"] == "round.closed"]
    twice = surplus(line["round"] for line in closed) + surplus(line["seq"] for line in journal)
    for each in closed:
        mine = [line for line in journal if line["kind"] == "update" and is_part_of(each, line)]
        twice += surplus(line["node_id"] for line in mine)
        twice += sum(line["num_examples"] for line in mine) != each["num_examples"]
    twice += surplus(row["round"] for row in rows["rounds"])
    twice += surplus((row["round"], row["flower_node_id"], row["kind"], row["wave"]) for row in rows["updates"])
    return twice + surplus(row["uri"] for row in rows["artifacts"])


def is_part_of(closed: Json, update: Json) -> bool:
    """Did the attempt that committed the round count this update in it?"""
    return (update["counted_in_round"], update["attempt"]) == (closed["round"], closed["attempt"])


def rows_of(stack: Stack, run_id: str) -> dict[str, list[Json]]:
    return {what: stack.admin.items(f"/runs/{run_id}/{what}") for what in ("rounds", "updates", "artifacts")}


def surplus(keys: Iterable[Hashable]) -> int:
    return sum(count - 1 for count in Counter(keys).values())


def distance(run_dir: Path, undisturbed: Path) -> float:
    """Give the largest difference of two final models, as a share of the largest weight."""
    mine, other = (load_file(folder / "models" / "final.safetensors") for folder in (run_dir, undisturbed))
    largest = max(float(np.abs(values).max()) for values in other.values())
    return max(float(np.abs(mine[name] - values).max()) for name, values in other.items()) / largest
