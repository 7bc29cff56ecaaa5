"""The door to any Postgres, by psycopg 3."""

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from db.connections import Connections
from db.door import Row, Where
from db.errors import from_sqlstate, unreachable


class PostgresDoor:
    """Reach a database by its DSN; a call whose connection broke raises DatabaseUnavailable, the next makes a new one."""

    def __init__(self, dsn: str, *, max_connections: int = 8, timeout_s: float = 5.0) -> None:
        self._connections = Connections(dsn, max_connections, timeout_s)

    async def open(self) -> None:
        """Connect once. Raises DatabaseUnavailable."""
        await self._fetch(sql.SQL("select 1"))

    async def close(self) -> None:
        """Close every connection."""
        await self._connections.close()

    async def call(self, function: str, /, **args: Any) -> Any:
        """Call a function with named arguments; lists and dicts go as jsonb."""
        names = sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in args)
        query = sql.SQL("select {}({})").format(sql.Identifier("public", function), names)
        values = {name: Jsonb(value) if isinstance(value, dict | list) else value for name, value in args.items()}
        return (await self._fetch(query, values))[0][0]

    async def rows(self, view: str, where: Where | None = None, after: int | None = None, limit: int = 100) -> list[Row]:
        """Read a page of a view by keyset."""
        tests = [_test(column, value) for column, value in (where or {}).items()]
        tests.append(sql.SQL("true") if after is None else sql.SQL("v.key > {}").format(after))
        # The page is cut before its rows are made JSON: made first, a sort would make JSON of every row that it drops.
        query = sql.SQL("select to_jsonb(p) from (select * from {} v where {} order by v.key limit {}) p order by p.key").format(
            sql.Identifier("public", view), sql.SQL(" and ").join(tests), limit
        )
        return [row[0] for row in await self._fetch(query)]

    async def _fetch(
        self, query: sql.SQL | sql.Composed, values: Mapping[str, Any] | None = None, repeats: int = 2
    ) -> list[tuple[Any, ...]]:
        try:
            async with self._connections.one() as connection:
                return await (await connection.execute(query, values)).fetchall()
        except psycopg.Error as error:
            said, code = error.diag, error.sqlstate
            if code is None and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
                raise unreachable(" ".join(str(error).split())) from error
            if code in ("40001", "40P01") and repeats:  # a deadlock, all rolled back: the same call again
                return await self._fetch(query, values, repeats - 1)
            message = said.message_primary or " ".join(str(error).split())
            raise from_sqlstate(code or "22000", message, said.message_detail, said.constraint_name) from error


def _test(column: str, value: Any) -> sql.Composable:
    name = sql.Identifier("v", column)
    if value is None:
        return sql.SQL("{} is null").format(name)
    if isinstance(value, list | tuple | set | frozenset):
        return sql.SQL("{} in ({})").format(name, sql.SQL(", ").join(map(sql.Literal, value))) if value else sql.SQL("false")
    return sql.SQL("{} = {}").format(name, value)
