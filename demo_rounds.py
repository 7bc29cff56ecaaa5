"""The demo's table of rounds: live on a terminal, elsewhere a line for each round that has closed."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

COLUMNS = ("round", "updates", "accuracy", "loss", "seconds", "down", "up")
Show = Callable[[list[dict[str, Any]], Counter[int]], None]


@contextmanager
def shown_rounds(out: Console) -> Iterator[Show]:
    """Give a function that shows rows of GET /runs/{id}/rounds, beside the number of counted updates by round."""
    if not out.is_terminal:
        yield printed_lines(out)
        return
    with Live(console=out, refresh_per_second=8) as live:
        yield lambda rounds, counted: live.update(table(rounds, counted))


def printed_lines(out: Console) -> Show:
    printed: set[int] = set()
    out.print("  " + "".join(f"{name:>10}" for name in COLUMNS))

    def show(rounds: list[dict[str, Any]], counted: Counter[int]) -> None:
        for row in rounds:
            if row["status"] != "open" and row["round"] not in printed:
                printed.add(row["round"])
                out.print("  " + "".join(f"{cell:>10}" for cell in cells(row, counted)))

    return show


def table(rounds: list[dict[str, Any]], counted: Counter[int]) -> Table:
    grid = Table(box=None, padding=(0, 2))
    for name in COLUMNS:
        grid.add_column(name, justify="right")
    for row in rounds:
        grid.add_row(*cells(row, counted), style="dim" if row["status"] == "open" else None)
    return grid


def cells(row: dict[str, Any], counted: Counter[int]) -> list[str]:
    measured = {**(row["metrics"] or {}), **(row["server_metrics"] or {})}  # the server's test set goes before the sites' mean
    arrived = row["counted"] if row["status"] == "closed" else counted[row["round"]]
    return [
        str(row["round"]),
        f"{arrived or 0}/{row['expected'] or '?'}",
        figure(measured.get("accuracy"), ".4f"),
        figure(measured.get("loss"), ".4f"),
        figure(row["seconds"], ".1f"),
        size(row["bytes_down"]),
        size(row["bytes_up"]),
    ]


def figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def size(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e3:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"
