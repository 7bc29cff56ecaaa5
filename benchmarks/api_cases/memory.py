"""Does the admin server's memory stay where it is? Its own process, resident, while runs come and go."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import httpx

from benchmarks.measure.admin import ROOT, AdminServer

APPS = ROOT / "benchmarks" / "apps"
SETTLED_S = 5.0  # after a start: whatever was needed for it is given back
RUN_S = 120.0
ENDED = ("completed", "failed", "stopped")


def start_superlink(server: AdminServer) -> None:
    server.ask("POST", "/superlink/start", json={})
    until = time.monotonic() + 60
    while (view := server.ask("GET", "/superlink"))["state"] != "running":
        if time.monotonic() > until:
            raise RuntimeError(f"the SuperLink does not start: {view}")
        time.sleep(0.2)


def idle_mb(server: AdminServer) -> float:
    """Give what it takes with a SuperLink and nothing to do: median of five looks."""
    time.sleep(SETTLED_S)
    looks = []
    for _ in range(5):
        looks.append(server.rss_bytes() / 1e6)
        time.sleep(0.5)
    return statistics.median(looks)


def after_each_run_mb(server: AdminServer) -> Iterator[float]:
    """Do one run after the other, by REST to its end, as a page would look at it; give the memory after each."""
    with server.client(server.token) as page:
        while True:
            run = server.ask("POST", "/runs/start", json={"app": "records"})
            until = time.monotonic() + RUN_S
            while (status := page.get(f"/runs/{run['id']}").raise_for_status().json()["status"]) not in ENDED:
                if time.monotonic() > until:
                    raise RuntimeError(f"run {run['id']} is {status} after {RUN_S:.0f} s")
                time.sleep(0.2)
            if status != "completed":
                raise RuntimeError(f"run {run['id']} {status}: {page.get('/runs/' + run['id']).json()['cause']}")
            look(page, run["id"])
            yield server.rss_bytes() / 1e6


def look(page: httpx.Client, run_id: str) -> None:
    """Read what a page of a run shows."""
    for below in ("", "/rounds", "/updates", "/metrics", "/events", "/logs"):
        page.get(f"/runs/{run_id}{below}").raise_for_status()
    page.get("/runs").raise_for_status()


def growth_mb(after_each: list[float]) -> float:
    """Give by how much the last fifth of the runs stands above the second fifth; the first fifth warms up."""
    fifth = len(after_each) // 5
    return statistics.median(after_each[-fifth:]) - statistics.median(after_each[fifth : 2 * fifth])
