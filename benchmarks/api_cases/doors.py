"""The same figures over each door: what is measured of an admin server, and how it comes to stand on a Supabase."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks.api_cases import filling, reads, streams
from benchmarks.api_cases.sites import Site, new_site
from benchmarks.measure.admin import AdminServer
from db import migrate
from db.embedded import EmbeddedPostgres
from db.postgres_door import PostgresDoor
from db.store import Store
from db.supabase_door import SupabaseDoor
from tests.db import lite

COPY = "supabase"  # the database of the second part: a copy of the first's
REPORTS = 20  # of a thousand lines, over REST


@dataclass(frozen=True)
class Figures:
    """What was measured over one door."""

    pages_p95_ms: dict[str, float]
    intake_lines_a_s: float
    reports_lines_a_s: float
    slowest_follower_ms: float


async def figures(server: AdminServer, store: Store, project_id: str, run_id: str, intake_s: list[float]) -> Figures:
    """Measure. run_id: the run whose pages are read. intake_s: seconds of each batch of lines, where they were taken already."""
    site = await new_site(store, project_id)
    pages = {name: await asyncio.to_thread(reads.p95_ms, server.rest, address) for name, address in reads.pages(run_id).items()}
    batches = intake_s or [await filling.log_batch(store, site.run_id, batch) for batch in range(REPORTS)]
    reports_s = await asyncio.to_thread(report_batches, server, site)
    follower_ms = await streams.slowest_of_all_ms(server.address, server.token, await new_site(store, project_id))
    intake, by_rest = (filling.BATCH * len(took) / sum(took) for took in (batches, reports_s))
    return Figures(pages, intake, by_rest, follower_ms)


def report_batches(server: AdminServer, site: Site) -> list[float]:
    """Send lines as a site does, a thousand a request, and give the seconds of each."""
    took = []
    with server.client(site.token) as client:
        for seq in range(1, REPORTS + 1):
            lines = [filling.log_line(number) for number in range(filling.BATCH)]
            start = time.perf_counter()
            client.post(f"/nodes/{site.node_id}/reports", json=site.report("reports", seq, lines)).raise_for_status()
            took.append(time.perf_counter() - start)
    return took


@asynccontextmanager
async def embedded_store(home: Path) -> AsyncIterator[Store]:
    """Reach the embedded Postgres of a running admin server."""
    door = PostgresDoor(await EmbeddedPostgres(home / "postgres").start())
    try:
        yield Store(door)
    finally:
        await door.close()


@contextmanager
def supabase(home: Path) -> Iterator[dict[str, str]]:
    """Run @supabase/lite over a copy of an ended admin server's database; give the settings that lead there.

    Raises LiteMissing.
    """
    lite.install()
    postgres = EmbeddedPostgres(home / "postgres")
    dsn = make_conninfo(asyncio.run(postgres.start()), dbname="postgres")
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"create database {COPY} template espalier".encode())
        copy = make_conninfo(dsn, dbname=COPY)
        with psycopg.connect(copy, autocommit=True) as connection:
            connection.execute(lite.STUB.read_bytes())
        asyncio.run(migrate.apply(copy, supabase=True))
        with lite.running(dsn) as server:
            with psycopg.connect(copy, autocommit=True) as connection:
                connection.execute("select espalier.set_rights()")
                connection.execute("grant usage on all sequences in schema public to lite_rest")
                connection.execute("analyze")
            yield {"SUPABASE_URL": server.url_of(COPY), "SUPABASE_KEY": server.secret_key}
    finally:
        asyncio.run(postgres.stop())


@asynccontextmanager
async def supabase_store(settings: dict[str, str]) -> AsyncIterator[Store]:
    door = SupabaseDoor(settings["SUPABASE_URL"], settings["SUPABASE_KEY"])
    try:
        yield Store(door)
    finally:
        await door.close()
