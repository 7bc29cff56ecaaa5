"""What a door must do, whichever it is."""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from db.door import Door, Row
from db.errors import BadValue, DatabaseUnavailable, MissingFunction
from db.postgres_door import PostgresDoor
from db.store import Store
from db.supabase_door import SupabaseDoor


async def test_values_come_as_json(door: Door, run: Row) -> None:
    (row,) = await door.rows("run_list", {"id": run["id"]})
    assert (row["id"], row["series_id"], row["config"], row["attempts"], row["label"]) == (
        run["id"],
        "9",
        {"lr": 0.1},
        1,
        "first",
    )
    assert row["created_at"].startswith("20")


async def test_rows_are_chosen_by_value_list_and_null(door: Door, store: Store, project: Row) -> None:
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


async def test_pages_follow_the_key(door: Door, store: Store, project: Row) -> None:
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


async def test_a_function_that_is_not_there_is_missing(door: Door) -> None:
    with pytest.raises(MissingFunction):
        await door.call("no_such_function")


async def test_a_call_that_finds_all_connections_busy_gives_up_after_its_timeout(
    new_door: Callable[..., Door], database_url: str, project: Row
) -> None:
    narrow = new_door(max_connections=4, timeout_s=1)
    with psycopg.connect(database_url) as holder:
        holder.execute("lock table audit_log in access exclusive mode")
        waiting = [asyncio.create_task(narrow.rows("audit_list")) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(DatabaseUnavailable, match="busy"):
            await narrow.rows("project_list")
        holder.rollback()
        await asyncio.gather(*waiting)
    assert len(await narrow.rows("project_list")) == 1


async def test_a_cancelled_call_leaves_the_door_usable(door: Door, database_url: str, project: Row) -> None:
    with psycopg.connect(database_url) as holder:
        holder.execute("lock table audit_log in access exclusive mode")
        for _ in range(8):
            waiting = asyncio.create_task(door.rows("audit_list"))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert len(await door.rows("project_list")) == 1


async def test_a_closed_door_is_unavailable(door: PostgresDoor | SupabaseDoor) -> None:
    await door.close()
    with pytest.raises(DatabaseUnavailable, match="closed"):
        await door.rows("project_list")
