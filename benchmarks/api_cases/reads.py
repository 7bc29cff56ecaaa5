"""How long does a page take? One client, one kept connection, one call after the other."""

from __future__ import annotations

import time

import httpx

from benchmarks.measure.table import percentile

CALLS = 300
PAGE = 100


def pages(run_id: str) -> dict[str, str]:
    """Give the addresses that are measured, by the name of their row."""
    return {
        "GET /runs": f"/runs?limit={PAGE}",
        "GET /runs/{id}": f"/runs/{run_id}",
        "GET /nodes": f"/nodes?limit={PAGE}",
        "GET /runs/{id}/logs": f"/runs/{run_id}/logs?limit={PAGE}",
    }


def p95_ms(client: httpx.Client, address: str) -> float:
    """Ask for a page so many times and give the 95th percentile, the body read and decoded."""
    took = []
    for _ in range(CALLS):
        start = time.perf_counter()
        client.get(address).raise_for_status().json()
        took.append(time.perf_counter() - start)
    return percentile(took, 95) * 1000
