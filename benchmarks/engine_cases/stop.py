"""A stop through a real federation: how long ClientApps live on after it, one that computes for ever and one that sleeps."""

from __future__ import annotations

import time
from pathlib import Path

from control_plane.identity import ProcessRecord

from tests.federation.stack import ROOT, Stack, wait_for

APPS = ROOT / "tests" / "apps"
SITES, LONGEST_S = 2, 60.0


def seconds_to_stop(home: Path, times: int) -> list[float]:
    """Stop so many runs in the midst of their training; give how long it took each time until no ClientApp was left."""
    stack = Stack(home, APPS, sites=SITES)
    try:
        stack.start()
        return [stopped_after_s(stack) for _ in range(times)]
    finally:
        stack.stop()


def stopped_after_s(stack: Stack) -> float:
    """Stop one run as soon as both sites train."""
    config = {"trouble": "busy", "trouble_site": "site-0", "train_s": 600.0}  # the other site sleeps
    run_id = stack.start_run("trouble", **config, num_rounds=1, min_available=SITES)
    wait_for("both sites to train", lambda: len(trained_on(stack, run_id)) == SITES, LONGEST_S)
    assert len(client_apps(stack)) == SITES
    began = time.monotonic()
    stack.admin.post(f"/runs/{run_id}/stop")
    wait_for("no ClientApp to be left", lambda: not client_apps(stack), LONGEST_S)
    took_s = time.monotonic() - began
    run = stack.wait_end(run_id, LONGEST_S)
    assert run["status"] == "stopped", run
    return took_s


def trained_on(stack: Stack, run_id: str) -> set[str]:
    """Give the lines in which sites have said that they train."""
    return {line["text"] for line in stack.admin.items(f"/runs/{run_id}/logs") if "training on site-" in line["text"]}


def client_apps(stack: Stack) -> list[ProcessRecord]:
    """Give the live ClientApps of all sites."""
    found = [ProcessRecord.read(path) for path in stack.home.glob("sites/*/supernode/clientapps/*/*/proc.json")]
    return [record for record in found if record is not None and record.is_alive()]
