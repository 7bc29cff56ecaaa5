"""What a door must do. The second door (Supabase) will be proved by the same tests."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from db.door import Row
from db.embedded import EmbeddedPostgres
from db.errors import BadValue, DatabaseUnavailable, MissingFunction
from db.postgres_door import PostgresDoor
from db.postmaster import Postmaster
from db.store import Store


@pytest.fixture
async def door(database_url: str) -> AsyncIterator[PostgresDoor]:
    door = PostgresDoor(database_url, max_connections=4, timeout_s=1)
    await door.open()
    yield door
    await door.close()


async def test_values_come_as_json(door: PostgresDoor, run: Row) -> None:
    (row,) = await door.rows("run_list", {"id": run["id"]})
    assert (row["id"], row["series_id"], row["config"], row["attempts"], row["label"]) == (
        run["id"],
        "9",
        {"lr": 0.1},
        1,
        "first",
    )
    assert row["created_at"].startswith("20")


async def test_rows_are_chosen_by_value_list_and_null(door: PostgresDoor, store: Store, project: Row) -> None:
    ids = [(await store.begin_run(project["id"], "app", fab, {}, None, "shell"))["id"] for fab in ("a", "b", None)]

    async def found(**where: Any) -> list[str]:
        return [row["id"] for row in await door.rows("run_list", where)][::-1]

    assert await found() == ids
    assert await found(fab_hash="a") == ids[:1]
    assert await found(fab_hash=["a", "b", "c"]) == ids[:2]
    assert await found(fab_hash=None) == ids[2:]
    assert await found(id=ids[1:], status="pending") == ids[1:]
    assert await found(fab_hash=[]) == []
    assert await found(attempts=0, fab_hash="'; drop table runs; --") == []


async def test_pages_follow_the_key(door: PostgresDoor, store: Store, project: Row) -> None:
    for number in range(5):
        await store.audit(project["id"], "admin", f"action {number}")
    first = await door.rows("audit_list", None, None, 2)
    second = await door.rows("audit_list", None, first[-1]["key"], 2)
    third = await door.rows("audit_list", None, second[-1]["key"], 2)
    assert [row["action"][-1] for row in first + second + third] == list("43210")


@pytest.mark.parametrize(
    ("view", "where"),
    [("no_such_list", {}), ("run_list", {"colour": "red"}), ("run_list", {"id": "no uuid"}), ("run_list", {"label": "a\x00b"})],
)
async def test_a_question_that_makes_no_sense_is_a_bad_value(store: Store, view: str, where: Row) -> None:
    with pytest.raises(BadValue):
        await store.rows(view, where)


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_page_has_1_to_1000_rows(store: Store, limit: int) -> None:
    with pytest.raises(BadValue, match="1 to 1000"):
        await store.rows("run_list", limit=limit)


async def test_a_function_that_is_not_there_is_missing(door: PostgresDoor) -> None:
    with pytest.raises(MissingFunction):
        await door.call("no_such_function")


async def test_a_call_that_finds_all_connections_busy_gives_up_after_its_timeout(
    door: PostgresDoor, database_url: str, project: Row
) -> None:
    with psycopg.connect(database_url) as holder:
        holder.execute("lock table audit_log in access exclusive mode")
        waiting = [asyncio.create_task(door.rows("audit_list")) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(DatabaseUnavailable, match="busy"):
            await door.rows("project_list")
        holder.rollback()
        await asyncio.gather(*waiting)
    assert len(await door.rows("project_list")) == 1


async def test_a_cancelled_call_leaves_the_door_usable(door: PostgresDoor, database_url: str, project: Row) -> None:
    with psycopg.connect(database_url) as holder:
        holder.execute("lock table audit_log in access exclusive mode")
        for _ in range(8):
            waiting = asyncio.create_task(door.rows("audit_list"))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert len(await door.rows("project_list")) == 1


async def test_a_deadlock_is_made_again_and_both_calls_succeed(door: PostgresDoor, database_url: str, project: Row) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            """
            create table pair (id int primary key, n int not null); insert into pair values (1, 0), (2, 0);
            create function public.cross_over(p_first int, p_second int) returns jsonb language plpgsql as $$
            begin
              update pair set n = n + 1 where id = p_first;
              perform pg_sleep(0.2);
              update pair set n = n + 1 where id = p_second;
              return 'true';
            end $$
            """
        )
        calls = [door.call("cross_over", p_first=1, p_second=2), door.call("cross_over", p_first=2, p_second=1)]
        assert await asyncio.gather(*calls) == [True, True]
        assert connection.execute("select n from pair").fetchall() == [(2,), (2,)]


async def test_a_closed_door_is_unavailable(door: PostgresDoor) -> None:
    await door.close()
    with pytest.raises(DatabaseUnavailable, match="closed"):
        await door.rows("project_list")


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
