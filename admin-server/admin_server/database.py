"""The database of this server: the embedded Postgres, which is started and kept, or one that the settings name."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from admin_server.feed import AnnouncingDoor, Feed
from admin_server.settings import Settings
from db import migrate
from db.embedded import EmbeddedPostgres
from db.errors import DatabaseError, DatabaseUnavailable
from db.postgres_door import PostgresDoor
from db.store import Store

if TYPE_CHECKING:
    from db.supabase_door import SupabaseDoor

log = logging.getLogger(__name__)
LOOK_S = 1.0


class Database:
    """A store that stays the same object while the Postgres behind it is killed, restarted or moved to another port."""

    def __init__(self, settings: Settings, feed: Feed) -> None:
        self._settings = settings
        is_given = settings.database_url or settings.supabase_url
        self._embedded = None if is_given else EmbeddedPostgres(settings.espalier_home / "postgres")
        self._feed = feed
        self._dsn = ""
        self._door: PostgresDoor | SupabaseDoor | None = None
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

        Raises DatabaseUnavailable, KeyRefused, SchemaMismatch, EmbeddedPostgresFailed.
        """
        is_ours = self._embedded is not None and not self._embedded.is_running()
        if self._embedded is not None:
            self._dsn = await self._embedded.start()
            await migrate.apply(self._dsn)
        self._door = self._way_in()
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

    def _way_in(self) -> PostgresDoor | SupabaseDoor:
        told = self._settings
        if told.supabase_url is not None and told.supabase_key is not None:
            from db.supabase_door import SupabaseDoor  # its client takes 0.3 s to import, which nobody else should pay

            return SupabaseDoor(told.supabase_url, told.supabase_key.get_secret_value())
        return PostgresDoor(told.database_url.get_secret_value() if told.database_url is not None else self._dsn)

    async def _move_to(self, dsn: str) -> None:
        if dsn == self._dsn or self._door is None or self._announcing is None:
            return
        old, self._door, self._dsn = self._door, PostgresDoor(dsn), dsn
        await self._door.open()
        self._announcing.door = self._door
        await old.close()
