"""A round of large updates through a real SuperLink: what the ServerApp and the SuperLink take of memory."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from control_plane.identity import ProcessRecord

from benchmarks.engine_cases.simulated import at
from benchmarks.measure.admin import ROOT
from tests.federation.stack import Stack, wait_for

APPS = ROOT / "benchmarks" / "apps"
LOOK_S = 0.05
ROUND_S = 3000.0


@dataclass(frozen=True)
class Memory:
    """Resident bytes above those when the run was opened with its first model, at their peak; and how long the round took."""

    server_app: int
    superlink: int
    round_s: float


def memory_of_a_round(home: Path, sites: int, megabytes: float) -> Memory:
    """Do one round of so many updates of so many MB each; the sites take turns at making them."""
    stack = Stack(home, APPS, sites=sites)
    try:
        stack.start()
        superlink = ProcessRecord.read(home / "superlink" / "proc.json")
        assert superlink is not None
        run_id = stack.start_run("large", model_mb=megabytes, min_available=sites, turn=str(home / "turn"))
        run_dir = Path(wait_for("the run's directory", lambda: stack.run(run_id)["run_dir"], 60))
        server_app = wait_for("the ServerApp", lambda: server_app_of(run_dir), 60)
        with watched(superlink.pid) as of_superlink, watched(server_app.pid) as of_server_app:
            run = stack.wait_end(run_id, ROUND_S)
        assert run["status"] == "completed", run["cause"]
        journal = stack.journal(run_id)
        began = at(next(line for line in journal if line["kind"] == "run.opened"))
        (closed,) = [line for line in journal if line["kind"] == "round.closed"]
        return Memory(grown(of_server_app, began), grown(of_superlink, began), closed["seconds"])
    finally:
        stack.stop()


def server_app_of(run_dir: Path) -> ProcessRecord | None:
    found = [record for folder in run_dir.glob("attempts/*") if (record := ProcessRecord.read(folder / "proc.json"))]
    return found[0] if found else None


@contextlib.contextmanager
def watched(pid: int) -> Iterator[list[tuple[float, int]]]:
    """Look at a process's resident memory until the end, 20 times a second: (wall clock s, bytes)."""
    looks: list[tuple[float, int]] = []
    over = threading.Event()

    def look() -> None:
        process = psutil.Process(pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            while not over.wait(LOOK_S):
                looks.append((time.time(), process.memory_info().rss))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield looks
    finally:
        over.set()
        watcher.join()


def grown(looks: list[tuple[float, int]], since: float) -> int:
    """Give by how much the peak stands above the last look before `since`."""
    before = [size for when, size in looks if when < since]
    return max(size for _, size in looks) - before[-1]
