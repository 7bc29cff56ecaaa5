"""What the door to Postgres does beyond what every door must do."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import psycopg
import pytest

from db.embedded import EmbeddedPostgres
from db.errors import DatabaseUnavailable
from db.postgres_door import PostgresDoor
from db.postmaster import Postmaster
from tests.db.deadlock import CROSS_OVER


@pytest.fixture
async def door(database_url: str) -> AsyncIterator[PostgresDoor]:
    door = PostgresDoor(database_url, max_connections=4, timeout_s=1)
    await door.open()
    yield door
    await door.close()


async def test_a_deadlock_is_made_again_and_both_calls_succeed(door: PostgresDoor, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(CROSS_OVER)
        calls = [door.call("cross_over", p_first=1, p_second=2), door.call("cross_over", p_first=2, p_second=1)]
        assert await asyncio.gather(*calls) == [True, True]
        assert connection.execute("select n from pair").fetchall() == [(2,), (2,)]


async def test_opening_a_door_to_nothing_says_so(database_url: str) -> None:
    with pytest.raises(DatabaseUnavailable):
        await PostgresDoor("postgresql://nobody@127.0.0.1:1/none").open()


async def test_connections_that_the_server_ended_are_replaced_without_a_failed_call(
    door: PostgresDoor, database_url: str
) -> None:
    await asyncio.gather(*(door.rows("project_list") for _ in range(20)))
    with psycopg.connect(database_url, autocommit=True) as connection:
        ended = connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        ).fetchall()
    assert len(ended) >= 1
    assert await asyncio.gather(*(door.rows("project_list") for _ in range(20))) == [[]] * 20


async def test_calls_fail_while_the_server_is_killed_and_work_again_when_it_is_back(memory_path: Path) -> None:
    server = EmbeddedPostgres(memory_path / "postgres", durable=False)
    door = PostgresDoor(await server.start())
    try:
        await door.open()
        postmaster = Postmaster.read(memory_path / "postgres" / "proc.json")
        assert postmaster is not None
        process = psutil.Process(postmaster.pid)
        backends = process.children(recursive=True)  # each still answers for a moment after the postmaster's death
        postmaster.signal(9)
        _, left = await asyncio.to_thread(psutil.wait_procs, [process, *backends], 10)
        assert not left
        with pytest.raises(DatabaseUnavailable):
            await door.open()
        await server.start()
        await door.open()
    finally:
        await door.close()
        await server.stop()
