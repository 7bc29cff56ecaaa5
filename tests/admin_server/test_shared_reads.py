"""Followers who wake together read once; what is read is never older than the last news."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from admin_server.feed import Feed
from admin_server.shared_reads import SharedReads

from db.errors import DatabaseUnavailable


class Table:
    """Rows that take a moment to read; counts how often they were."""

    def __init__(self) -> None:
        self.rows = [1]
        self.reads = 0
        self.fails = False

    async def read(self) -> list[int]:
        self.reads += 1
        found = list(self.rows)
        await asyncio.sleep(0)
        if self.fails:
            raise DatabaseUnavailable("away")
        return found


async def test_fifty_who_ask_the_same_read_once() -> None:
    table, shared = Table(), SharedReads()
    answers = await asyncio.gather(*(shared.ask("rows after 0", table.read) for _ in range(50)))
    assert (answers, table.reads) == ([[1]] * 50, 1)
    await shared.ask("rows after 1", table.read)
    assert table.reads == 2


async def test_a_failure_reaches_all_who_asked() -> None:
    table, shared = Table(), SharedReads()
    table.fails = True
    answers = await asyncio.gather(*(shared.ask("rows", table.read) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [DatabaseUnavailable] * 3
    assert table.reads == 1


async def test_who_hangs_up_takes_nothing_from_the_others() -> None:
    table, shared = Table(), SharedReads()
    first, second = (asyncio.create_task(shared.ask("rows", table.read)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == [1]
    assert first.cancelled()


@pytest.mark.parametrize("leaves", [False, True], ids=["while it listens", "while nobody listens"])
async def test_what_is_committed_after_a_read_is_read_anew(leaves: bool) -> None:
    table, feed = Table(), Feed()

    async def asked(read: Callable[[], Awaitable[list[int]]]) -> object:
        with feed.listening("run") as news:
            return await news.read("rows", read)

    def commit() -> None:
        table.rows.append(2)
        feed.publish(["run"])

    if leaves:
        assert await asked(table.read) == [1]
        commit()
        assert await asked(table.read) == [1, 2]
    else:
        with feed.listening("run") as news:
            assert await news.read("rows", table.read) == [1]
            assert await asked(table.read) == [1]
            commit()
            assert await news.read("rows", table.read) == [1, 2]
    assert table.reads == 2
