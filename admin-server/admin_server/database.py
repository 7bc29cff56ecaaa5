"""The database of this server: the embedded Postgres, which is started and kept, or the one that DATABASE_URL names."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from admin_server.feed import AnnouncingDoor, Feed
from db import migrate
from db.embedded import EmbeddedPostgres
from db.errors import DatabaseError, DatabaseUnavailable
from db.postgres_door import PostgresDoor
from db.store import Store

log = logging.getLogger(__name__)
LOOK_S = 1.0


class Database:
    """A store that stays the same object while the Postgres behind it is killed, restarted or moved to another port."""

    def __init__(self, dsn: str | None, state_dir: Path, feed: Feed) -> None:
        self._given = dsn
        self._embedded = EmbeddedPostgres(state_dir) if dsn is None else None
        self._feed = feed
        self._dsn = ""
        self._door: PostgresDoor | None = None
        self._announcing: AnnouncingDoor | None = None
        self._up_since: float | None = None
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        if self._store is None:
            raise DatabaseUnavailable()
        return self._store

    @property
    def is_up(self) -> bool:
        return self._up_since is not None

    @property
    def up_s(self) -> float:
        """For how long it has answered without a gap, as far as was seen."""
        return 0.0 if self._up_since is None else time.monotonic() - self._up_since

    async def open(self) -> bool:
        """Start or reach it; True when it was we who started it.

        Raises DatabaseUnavailable, SchemaMismatch, EmbeddedPostgresFailed.
        """
        is_ours = self._embedded is not None and not self._embedded.is_running()
        if self._embedded is not None:
            self._dsn = await self._embedded.start()
            await migrate.apply(self._dsn)
        else:
            self._dsn = str(self._given)
        self._door = PostgresDoor(self._dsn)
        await self._door.open()
        self._announcing = AnnouncingDoor(self._door, self._feed)
        self._store = Store(self._announcing)
        await self._store.check_schema()
        self._up_since = time.monotonic()
        return is_ours

    async def look(self) -> None:
        """See whether it answers; start the embedded one again when its process is gone."""
        try:
            if self._embedded is not None and not self._embedded.is_running():
                self._up_since = None
                log.error("the embedded Postgres is gone and is started again")
                await self._move_to(await self._embedded.start())
            await self.store.check_schema()
        except DatabaseUnavailable as away:
            if self.is_up:
                log.error("the database is away: %s", away)
            self._up_since = None
            return
        except DatabaseError as failed:
            log.error("the database does not come back: %s", failed)
            self._up_since = None
            return
        if not self.is_up:
            log.info("the database is back")
            self._up_since = time.monotonic()

    async def close(self, *, stop: bool = True) -> None:
        """Close the connections; stop: end the embedded one."""
        if self._door is not None:
            await self._door.close()
        if self._embedded is not None and stop:
            await self._embedded.stop()

    async def _move_to(self, dsn: str) -> None:
        if dsn == self._dsn or self._door is None or self._announcing is None:
            return
        old, self._door, self._dsn = self._door, PostgresDoor(dsn), dsn
        await self._door.open()
        self._announcing.door = self._door
        await old.close()
