"""The door to any Postgres: psycopg 3 and its pool."""

import asyncio
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from db.door import Row, Where
from db.errors import BadValue, DatabaseUnavailable, from_sqlstate

_REPEATABLE = ("40001", "40P01")  # serialization failure, deadlock: rolled back, so the same call may be made again
_REPEATS = 3


class PostgresDoor:
    """Reach a database by its DSN; connections that broke are replaced, the call they broke raises DatabaseUnavailable."""

    def __init__(self, dsn: str, *, max_connections: int = 8, timeout_s: float = 5.0) -> None:
        self._pool = AsyncConnectionPool(
            dsn,
            # No prepared statements: Supabase's pooler, in transaction mode, has none.
            kwargs={"autocommit": True, "prepare_threshold": None, "connect_timeout": 5, "application_name": "espalier"},
            min_size=1,
            max_size=max_connections,
            timeout=timeout_s,
            reconnect_timeout=2,  # gives up early instead of backing off to minutes; the next call tries again
            check=AsyncConnectionPool.check_connection,
            open=False,
        )

    async def open(self) -> None:
        """Connect once. Raises DatabaseUnavailable when that does not succeed within the timeout."""
        try:
            await self._pool.open(wait=True, timeout=self._pool.timeout)
        except PoolTimeout as error:
            await self._pool.close()
            raise DatabaseUnavailable("The database does not answer.") from error

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    async def call(self, function: str, /, **args: Any) -> Any:
        """Call a function with named arguments; lists and dicts go as jsonb."""
        names = sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in args)
        query = sql.SQL("select {}({})").format(sql.Identifier("public", function), names)
        values = {name: Jsonb(value) if isinstance(value, dict | list) else value for name, value in args.items()}
        return (await self._fetch(query, values))[0][0]

    async def rows(self, view: str, where: Where | None = None, after: int | None = None, limit: int = 100) -> list[Row]:
        """Read a page of a view by keyset."""
        if not 1 <= limit <= 1000:
            raise BadValue(f"A page has 1 to 1000 rows, not {limit}.")
        tests = [_test(column, value) for column, value in (where or {}).items()]
        tests += [] if after is None else [(sql.SQL("v.key > %s"), [after])]
        query = sql.SQL("select to_jsonb(v) from {} v where {} order by v.key limit %s").format(
            sql.Identifier("public", view), sql.SQL(" and ").join([sql.SQL("true"), *(test for test, _ in tests)])
        )
        return [row[0] for row in await self._fetch(query, [value for _, values in tests for value in values] + [limit])]

    async def _fetch(self, query: sql.Composed, values: Any) -> list[Any]:
        for repeat in range(_REPEATS):
            try:
                async with self._pool.connection() as connection:
                    return await (await connection.execute(query, values)).fetchall()
            except (PoolTimeout, PoolClosed) as error:
                raise DatabaseUnavailable("The database does not answer.") from error
            except psycopg.Error as error:
                if error.sqlstate in _REPEATABLE and repeat < _REPEATS - 1:
                    await asyncio.sleep(0.02 * (repeat + 1))
                    continue
                raise from_sqlstate(
                    error.sqlstate, _message(error), error.diag.message_detail, error.diag.constraint_name
                ) from error
        raise AssertionError


def _test(column: str, value: Any) -> tuple[sql.Composable, list[Any]]:
    name = sql.Identifier("v", column)
    if value is None:
        return sql.SQL("{} is null").format(name), []
    if isinstance(value, list | tuple | set | frozenset):
        marks = sql.SQL(", ").join(sql.Placeholder() * len(value))
        return (sql.SQL("{} in ({})").format(name, marks) if value else sql.SQL("false")), list(value)
    return sql.SQL("{} = %s").format(name), [value]


def _message(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error)
