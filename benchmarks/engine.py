"""The round engine: how soon a round closes, what updates cost in time and memory, and what a commit costs.

python3 run.py bench engine [--json FILE]     some ten minutes on two cores, and 20 GB of memory

Rows about memory come from a federation of eight sites, a SuperLink and TLS, the stop from one of two; the others from the engine
in one process, with made-up answers where there are nodes. docs/speed.md says how each is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.engine_cases import arrays, large, simulated, stop
from benchmarks.measure.leaving import leave_in_order
from benchmarks.measure.table import Row, machine, report

CLOSE_S, AGGREGATION_GB_S, MEMORY_MODELS, STOP_S = 0.5, 2.0, 4.0, 5.0
SITES, UPDATE_MB, SMALLER_MB, COMMIT_MB = 8, 400.0, 40.0, 100.0
NODES = (10, 100, 1000)
STOPS = 3
Rows = tuple[list[Row], list[Row]]
"""Those that stand first in the table, and the others."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 run.py bench engine", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    arguments = parser.parse_args()
    leave_in_order()
    on = machine()
    parts = [in_memory(), through_a_superlink(SITES, UPDATE_MB), per_node(NODES), commit(COMMIT_MB), stopping(STOPS)]
    rows = [row for first, _ in parts for row in first] + [row for _, further in parts for row in further]
    return report(rows, "", arguments.json, on)


def in_memory() -> Rows:
    say("closing rounds")
    closes = simulated.close_after_the_kth_s()
    say("aggregation")
    return [
        Row("close after the k-th update (s)", "s", max(closes), goal=CLOSE_S),
        Row("aggregation (GB/s)", "GB/s", arrays.aggregation_gb_s(UPDATE_MB), goal=AGGREGATION_GB_S, higher_is_better=True),
        Row("deserialising (GB/s)", "GB/s", arrays.deserialising_gb_s(UPDATE_MB), higher_is_better=True),
    ], [
        Row("close after the k-th update, median (s)", "s", statistics.median(closes)),
        Row("aggregation, 40 MB models (GB/s)", "GB/s", arrays.aggregation_gb_s(SMALLER_MB), higher_is_better=True),
    ]


def through_a_superlink(sites: int, megabytes: float) -> Rows:
    say(f"{sites} updates of {megabytes:.0f} MB through a SuperLink")
    with new_home() as home:
        memory = large.memory_of_a_round(home, sites, megabytes)
    size = f"{sites} x {megabytes:.0f} MB"
    return [
        Row(f"ServerApp memory, {size} (x model)", "", memory.server_app / megabytes / 1e6, goal=MEMORY_MODELS),
        Row(f"SuperLink memory, {size} (x model)", "", memory.superlink / megabytes / 1e6),
    ], [Row(f"round, {size} (s)", "s", memory.round_s)]


def stopping(times: int) -> Rows:
    say(f"{times} stops in the midst of training")
    with new_home() as home:
        took_s = stop.seconds_to_stop(home, times)
    return [], [Row("stop, until no ClientApp is left (s)", "s", max(took_s), goal=STOP_S)]


@contextlib.contextmanager
def new_home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="espalier-bench-") as folder:
        Path(folder).chmod(0o755)  # root's embedded Postgres is another user
        home = Path(folder) / "home"
        home.mkdir()
        yield home


def per_node(counts: tuple[int, ...]) -> Rows:
    say(f"{' and '.join(map(str, counts))} simulated nodes")
    costs = {count: simulated.ms_a_node(count) for count in counts}
    few, *_, many = counts
    return [Row(f"per node, {few} … {many} nodes (ms)", "ms", costs[many], goal=costs[few])], [
        Row(f"per node, {count} nodes (ms)", "ms", cost) for count, cost in costs.items() if count != many
    ]


def commit(megabytes: float) -> Rows:
    say(f"commits of {megabytes:.0f} MB")
    return [
        Row(f"commit, {megabytes:.0f} MB (s)", "s", arrays.commit_s(megabytes)),
        Row("commit, of a round without training (%)", "%", simulated.commit_share_percent(megabytes)),
    ], []


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
