"""How soon does a committed line reach fifty followers?

A site sends one line by POST /nodes/{id}/reports; the clock runs from the first byte of that request, so its transaction is part
of the figure, until the last follower has the line.
"""

from __future__ import annotations

import asyncio
import json
import time
from uuid import uuid4

import httpx

from benchmarks.api_cases.sites import Site
from benchmarks.measure.table import percentile

FOLLOWERS, LINES = 50, 60


async def slowest_of_all_ms(address: str, admin_token: str, site: Site) -> float:
    """Give the 95th percentile, over the lines, of the slowest follower."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    ready: asyncio.Queue[None] = asyncio.Queue()
    limits = httpx.Limits(max_connections=FOLLOWERS + 1)
    took = []
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits, trust_env=False) as client:
        followers = [asyncio.create_task(follow(client, admin_token, site.run_id, ready, heard)) for _ in range(FOLLOWERS)]
        try:
            async with asyncio.timeout(120):
                spool = uuid4().hex
                await send(client, site, spool, 1, "begin")
                for _ in followers:
                    await ready.get()
                for seq in range(2, LINES + 2):
                    text = f"line {seq} {uuid4().hex}"
                    start = time.perf_counter()
                    await send(client, site, spool, seq, text)
                    for _ in followers:
                        while await heard.get() != text:
                            continue
                    took.append(time.perf_counter() - start)
        finally:
            for follower in followers:
                follower.cancel()
            await asyncio.gather(*followers, return_exceptions=True)
    return percentile(took, 95) * 1000


async def send(client: httpx.AsyncClient, site: Site, spool: str, seq: int, text: str) -> None:
    report = site.report(spool, seq, [{"at": "2026-11-22T08:00:00Z", "level": "info", "text": text}])
    headers = {"Authorization": f"Bearer {site.token}"}
    (await client.post(f"/nodes/{site.node_id}/reports", json=report, headers=headers)).raise_for_status()


async def follow(
    client: httpx.AsyncClient, token: str, run_id: str, ready: asyncio.Queue[None], heard: asyncio.Queue[str]
) -> None:
    """Follow a run's log lines; the first one says that this follower listens."""
    listens = False
    headers = {"Authorization": f"Bearer {token}"}
    async with client.stream("GET", f"/runs/{run_id}/logs?follow=true", headers=headers) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            if not listens:
                listens = True
                ready.put_nowait(None)
            else:
                heard.put_nowait(json.loads(line.removeprefix("data: ")).get("text", ""))
