"""The admin server with a year's work in its database: pages, intake, streams, memory.

python3 run.py bench api [--json FILE]     about twelve minutes on two cores
python3 run.py bench api --soak            memory for an hour of runs, and nothing else

Bars are for the default, the embedded Postgres. The second column is the same over the Supabase door, with @supabase/lite in
Supabase's place on a copy of the same database; it needs node.js and stays empty without it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice, takewhile
from operator import attrgetter
from pathlib import Path

from benchmarks.api_cases import doors, filling, journal, memory
from benchmarks.api_cases.doors import Figures
from benchmarks.api_cases.filling import Size
from benchmarks.measure.admin import AdminServer
from benchmarks.measure.leaving import leave_in_order
from benchmarks.measure.table import Row, machine, report
from tests.db.lite import LiteMissing

RUNS, SOAK_S = 100, 3600.0
PAGE_MS, INTAKE_LINES_A_S, STREAM_MS, JOURNAL_MS, MEMORY_MB, GROWTH_MB = 50, 20_000, 250, 5, 150, 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 run.py bench api", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    parser.add_argument("--soak", action="store_true", help="memory over an hour of runs")
    arguments = parser.parse_args()
    leave_in_order()
    on = machine()
    with tempfile.TemporaryDirectory(prefix="espalier-bench-") as folder:
        Path(folder).chmod(0o755)  # root's embedded Postgres is another user
        rows = soak(Path(folder) / "home") if arguments.soak else everything(Path(folder))
    return report(rows, "Supabase", arguments.json, on)


def everything(folder: Path, size: Size | None = None, runs: int = RUNS) -> list[Row]:
    size, home = size or Size(), folder / "home"
    with AdminServer(home, APPS_DIR=str(memory.APPS)) as server:
        memory.start_superlink(server)
        idle_mb = memory.idle_mb(server)
        ours, run_id = asyncio.run(embedded(server, size))
        say(f"{runs} runs, one after the other")
        after_each = list(islice(memory.after_each_run_mb(server), runs))
    peers = beside(folder, home, run_id)

    def row(case: str, unit: str, figure: Callable[[Figures], float], goal: float | None, higher_is_better: bool = False) -> Row:
        return Row(case, unit, figure(ours), None if peers is None else figure(peers), goal, higher_is_better)

    return [
        *(row(f"{page}, p95", "ms", partial(page_ms, page), PAGE_MS) for page in ours.pages_p95_ms),
        row("log intake", "lines/s", attrgetter("intake_lines_a_s"), INTAKE_LINES_A_S, True),
        row("line to 50 followers, p95", "ms", attrgetter("slowest_follower_ms"), STREAM_MS),
        Row("journal, CPU a round", "ms", journal.cpu_ms_a_round(), goal=JOURNAL_MS),
        Row("memory, idle", "MB", idle_mb, goal=MEMORY_MB),
        Row(f"memory, growth over {runs} runs", "MB", memory.growth_mb(after_each), goal=GROWTH_MB),
        Row(f"memory, after {runs} runs", "MB", after_each[-1]),
        row("log intake by POST /nodes/{id}/reports", "lines/s", attrgetter("reports_lines_a_s"), None, True),
        Row("all of a round's record, CPU", "ms", journal.record_cpu_ms_a_round()),
    ]


def page_ms(page: str, figures: Figures) -> float:
    return figures.pages_p95_ms[page]


async def embedded(server: AdminServer, size: Size) -> tuple[Figures, str]:
    """Fill the database and measure; give the figures, and the run whose pages were read."""
    async with doors.embedded_store(server.home) as store:
        (project,) = await store.rows("project_list")
        say(f"filling: {size.nodes} nodes, {size.runs} runs, {size.metrics:,} metrics, {size.log_lines:,} log lines")
        filled = await filling.fill(store, project["id"], size)
        run_id = filled.run_ids[len(filled.run_ids) // 2]
        say("measuring over the embedded Postgres")
        return await doors.figures(server, store, project["id"], run_id, filled.intake_s), run_id


def beside(folder: Path, home: Path, run_id: str) -> Figures | None:
    """Measure the same over the Supabase door; None without node.js."""

    async def measured(server: AdminServer, settings: dict[str, str]) -> Figures:
        async with doors.supabase_store(settings) as store:
            (project,) = await store.rows("project_list")
            return await doors.figures(server, store, project["id"], run_id, [])

    say("measuring over the Supabase door")
    try:
        with doors.supabase(home) as settings, AdminServer(folder / "second", **settings) as server:
            return asyncio.run(measured(server, settings))
    except LiteMissing as missing:
        say(f"left out: {missing}")
        return None


def soak(home: Path, seconds: float = SOAK_S) -> list[Row]:
    """Do runs for an hour; look at the memory after each."""
    until = time.monotonic() + seconds
    with AdminServer(home, APPS_DIR=str(memory.APPS)) as server:
        memory.start_superlink(server)
        idle_mb = memory.idle_mb(server)
        after_each = list(takewhile(lambda _: time.monotonic() < until, memory.after_each_run_mb(server)))
    return [
        Row("memory, idle", "MB", idle_mb, goal=MEMORY_MB),
        Row(f"memory, growth over {len(after_each)} runs", "MB", memory.growth_mb(after_each), goal=GROWTH_MB),
        Row(f"memory, after {len(after_each)} runs", "MB", after_each[-1]),
    ]


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
