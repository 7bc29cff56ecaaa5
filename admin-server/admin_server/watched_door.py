"""The door as this server uses it: shut while the schema behind it is another code's, and with a memory for refusals."""

from __future__ import annotations

import time
from typing import Any

from db.door import Door, Row, Where
from db.errors import BadValue, DatabaseError, DatabaseFull, DatabaseReadOnly, MissingFunction, SchemaMismatch
from db.store import Store

REMEMBERED_S = 30.0
MAY_BE_THE_SCHEMA = (MissingFunction, BadValue)  # a view or column that is gone is a BadValue, some others are of no kind


class WatchedDoor:
    """Pass calls on, unless it is shut. door may be exchanged for another one to the same database."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.refused_at = float("-inf")
        self._refused: str | None = None
        self._shut: SchemaMismatch | None = None

    async def call(self, function: str, /, **args: Any) -> Any:
        """Call a SQL function. Raises SchemaMismatch while it is shut."""
        self._see_open()
        try:
            return await self.door.call(function, **args)
        except (DatabaseFull, DatabaseReadOnly) as refused:
            self._refused, self.refused_at = str(refused), time.monotonic()
            raise
        except DatabaseError as odd:
            await self._explain(odd)
            raise

    async def rows(self, view: str, where: Where | None = None, after: int | None = None, limit: int = 100) -> list[Row]:
        """Read a page of a view. Raises SchemaMismatch while it is shut."""
        self._see_open()
        try:
            return await self.door.rows(view, where, after, limit)
        except DatabaseError as odd:
            await self._explain(odd)
            raise

    async def see_schema(self) -> None:
        """Open or shut it as the schema now is. Raises SchemaMismatch, DatabaseUnavailable."""
        try:
            await Store(self.door).check_schema()
        except SchemaMismatch as mismatch:
            self._shut = mismatch
            raise
        self._shut = None

    @property
    def problem(self) -> str | None:
        """Say why the last write of the last 30 s that was refused for lack of room or rights was so."""
        return self._refused if time.monotonic() - self.refused_at < REMEMBERED_S else None

    def _see_open(self) -> None:
        if self._shut is not None:
            raise SchemaMismatch(self._shut.found, self._shut.expected)

    async def _explain(self, odd: DatabaseError) -> None:
        """Look whether the schema was changed under us: that is then what the caller is to hear."""
        if isinstance(odd, MAY_BE_THE_SCHEMA) or type(odd) is DatabaseError:
            try:
                await self.see_schema()
            except SchemaMismatch as mismatch:
                raise mismatch from odd
