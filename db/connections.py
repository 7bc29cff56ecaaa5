"""A pool of psycopg connections that tells the truth at once.

psycopg_pool waits out its timeout (5 s) while a server is down and tries in the background with a growing back-off; here a
call finds out in a millisecond that the server is gone, and the first call after its return works.
"""

import asyncio
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from db.errors import DatabaseUnavailable

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
# Half-open connections (a host that vanished) are given up after 15 s instead of the kernel's 15 minutes.
_TCP: dict[str, Any] = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 15_000}


class Connections:
    """At most so many connections to a DSN, kept while they are good."""

    def __init__(self, dsn: str, at_most: int, timeout_s: float) -> None:
        self._dsn, self._timeout_s = dsn, timeout_s
        self._turns = asyncio.Semaphore(at_most)
        self._idle: list[Connection] = []
        self._closed = False

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        """Lend a connection in autocommit. Raises DatabaseUnavailable when all stay busy for timeout_s or none can be made."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._turns.acquire()
        except TimeoutError as error:
            raise DatabaseUnavailable("All connections to the database are busy.") from error
        try:
            connection = await self._take()
            try:
                yield connection
            finally:
                await self._give(connection)
        finally:
            self._turns.release()

    async def close(self) -> None:
        """Close what is idle now, and what is lent when it comes back."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()

    async def _take(self) -> Connection:
        if self._closed:
            raise DatabaseUnavailable("The door to the database is closed.")
        while self._idle:
            connection = self._idle.pop()
            if not _has_news(connection):
                return connection
            await connection.close()
        return await psycopg.AsyncConnection.connect(
            self._dsn,
            autocommit=True,
            prepare_threshold=None,  # Supabase's pooler, in transaction mode, keeps no prepared statements
            connect_timeout=max(2, round(self._timeout_s)),
            application_name="espalier",
            **_TCP,
        )

    async def _give(self, connection: Connection) -> None:
        if self._closed or connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
            await connection.close()
        else:
            self._idle.append(connection)


def _has_news(connection: Connection) -> bool:
    """Has the server said something to an idle connection? That is its farewell, or the socket's end."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
