"""The database of this server: the embedded Postgres, which is started and kept, or one that the settings name."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from admin_server.feed import AnnouncingDoor, Feed
from admin_server.settings import Settings
from admin_server.watched_door import WatchedDoor
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
        self._watched: WatchedDoor | None = None
        self._up_since: float | None = None
        self._trouble: str | None = None
        self._told: set[str] = set()
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
    def problem(self) -> str | None:
        """Say why it is away, or takes no writes; None when all is well."""
        if not self.is_up:
            return self._trouble or "The embedded Postgres is started again."
        return self._watched.problem if self._watched is not None else None

    @property
    def up_s(self) -> float:
        """For how long it has answered, and taken what was written, without a gap as far as was seen."""
        if self._up_since is None or self._watched is None:
            return 0.0
        return time.monotonic() - max(self._up_since, self._watched.refused_at)

    async def open(self) -> bool:
        """Start or reach it; True when it was we who started it.

        Raises DatabaseUnavailable (KeyRefused, SchemaMismatch, DatabaseFull …) and EmbeddedPostgresFailed.
        """
        is_ours = self._embedded is not None and not self._embedded.is_running()
        if self._embedded is not None:
            self._dsn = await self._embedded.start()
            await migrate.apply(self._dsn)
        self._door = self._way_in()
        await self._door.open()
        self._watched = WatchedDoor(self._door)
        self._store = Store(AnnouncingDoor(self._watched, self._feed))
        await self._watched.see_schema()
        self._up_since = time.monotonic()
        return is_ours

    async def look(self) -> None:
        """See whether it answers and has our schema; start the embedded one again when its process is gone.

        While the schema is another code's nothing is read or written: a row made by the wrong functions would stay.
        """
        try:
            if self._embedded is not None and not self._embedded.is_running():
                self._up_since = None
                self._tell("the embedded Postgres is gone and is started again")
                await self._move_to(await self._embedded.start())
            if self._watched is not None:
                await self._watched.see_schema()
        except DatabaseError as trouble:
            self._up_since, self._trouble = None, str(trouble)
            self._tell(f"the database is away: {trouble}")
            return
        self._trouble = None
        self._told.clear()
        if not self.is_up:
            log.info("the database is back")
            self._up_since = time.monotonic()

    def _tell(self, trouble: str) -> None:
        """Log each trouble once an outage: it is looked at each second."""
        first = trouble.partition("\n")[0]
        if first not in self._told:
            self._told.add(first)
            log.error("%s", trouble)

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
        if dsn == self._dsn or self._door is None or self._watched is None:
            return
        old, new = self._door, PostgresDoor(dsn)
        await new.open()  # where this fails, the next look begins here again
        self._door, self._watched.door, self._dsn = new, new, dsn
        await old.close()
