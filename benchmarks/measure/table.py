"""The rows of a benchmark: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Row:
    """One figure, beside that of a peer in the same run where there is one.

    ours: None where what it tells of did not happen. goal: the bar that it has to meet, at most so much (at least, where higher
    is better); None: no bar. bars_ratio: the bar is for the ratio, which has to be at least so much.
    """

    case: str
    unit: str
    ours: float | None
    peer: float | None = None
    goal: float | None = None
    higher_is_better: bool = False
    bars_ratio: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times better ours is than the peer's."""
        if self.peer is None or not self.ours or not self.peer:
            return None
        return self.ours / self.peer if self.higher_is_better else self.peer / self.ours

    @property
    def met(self) -> bool | None:
        if self.goal is None or self.ours is None:
            return None
        if self.bars_ratio:
            return self.ratio is not None and self.ratio >= self.goal
        return self.ours >= self.goal if self.higher_is_better else self.ours <= self.goal


def machine() -> dict[str, Any]:
    """Say on what it was measured."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_1m": round(os.getloadavg()[0], 2),
    }


def report(rows: Sequence[Row], peer: str, json_file: Path | None, on: dict[str, Any]) -> int:
    """Print the table, write the JSON file, and give the exit status: 1 when a bar was missed.

    peer: what the peer column shows. on: `machine()`, taken before the work began.
    """
    print(table(rows, peer), flush=True)
    if json_file is not None:
        content = {"machine": on, "rows": [as_json(row) for row in rows]}
        json_file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    missed = [row.case for row in rows if row.met is False]
    if missed:
        print(f"missed: {', '.join(missed)}", flush=True)
    return 1 if missed else 0


def as_json(row: Row) -> dict[str, Any]:
    told = {name: value for name, value in asdict(row).items() if name not in ("higher_is_better", "bars_ratio")}
    return told | {"ratio": row.ratio, "met": row.met}


def table(rows: Sequence[Row], peer: str) -> str:
    lines = [("case", "unit", "ours", peer, "ratio", "goal", "")]
    for row in rows:
        sign = "≥" if row.higher_is_better or row.bars_ratio else "≤"
        goal = "" if row.goal is None else f"{sign} {number(row.goal)}"
        verdict = {None: "", True: "met", False: "MISSED"}[row.met]
        ours = "none" if row.ours is None else number(row.ours)
        lines.append((row.case, row.unit, ours, number(row.peer), number(row.ratio), goal, verdict))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(shown_line(line, widths)) for line in lines)


def shown_line(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.ljust(width) if at < 2 else cell.rjust(width) for at, (cell, width) in enumerate(zip(line, widths, strict=True))]


def number(value: float | None) -> str:
    """Write a figure with three digits that mean something."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percentile(values: Sequence[float], percent: int) -> float:
    """Give the value that so many percent of them do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
