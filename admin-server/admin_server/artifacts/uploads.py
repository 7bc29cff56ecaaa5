"""Copies of runs' artifacts in the bucket: made after their journal line was read, removed after their removal was.

What is to be done stands in the rows (to_do), so a crash at any moment is followed by doing it again, at the same address.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event
from typing import Any

from control_plane.files import open_plain

from admin_server.artifacts.store import ArtifactStore, Source, keep
from admin_server.artifacts.stores import Stores
from admin_server.background import DONE
from admin_server.errors import ArtifactDamaged, ArtifactGone, ArtifactStoreAway
from db.store import Store

log = logging.getLogger(__name__)
LOOK_S = 2.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
HOPELESS_S = 600.0  # until a file that is missing or damaged here is looked at again
PAGE = 100


class Uploads:
    """Keep the bucket as the rows say, one file at a time."""

    def __init__(self, store: Store, project_id: str, stores: Stores, runs_dir: Path) -> None:
        self._store = store
        self._project_id = project_id
        self._stores = stores
        self._runs_dir = runs_dir
        self._not_before = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._not_again: dict[tuple[str, str], float] = {}

    async def step(self) -> object:
        """Do what is to be done, unless the bucket was away a moment ago; DONE where there is no bucket."""
        if not self._stores.has_bucket:
            return DONE
        if time.monotonic() < self._not_before:
            return None
        try:
            async for artifact in self._each("remove"):
                await self._remove(artifact)
            async for artifact in self._each("store"):
                if self._not_again.get(key(artifact), 0.0) <= time.monotonic():
                    await self._upload(artifact)
        except ArtifactStoreAway as away:
            log.warning("the artifact store is away, next try in %.0f s: %s", self._pause_s, away)
            self._not_before = time.monotonic() + self._pause_s
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        return None

    async def _upload(self, artifact: dict[str, Any]) -> None:
        """Copy one file. Raises ArtifactStoreAway, having warned of it once."""
        store = await asyncio.to_thread(self._stores.newest)
        uri = store.uri_of(f"runs/{artifact['run_id']}/{artifact['uri']}")
        if await self._note(artifact, "storing", uri) is None:
            return
        stopped = Event()
        try:
            path = await self._path(artifact)
            await asyncio.to_thread(lambda: keep_file(store, uri, path, artifact["sha256"], stopped))
        except ArtifactStoreAway as away:
            if self._pause_s == FIRST_PAUSE_S:
                await self._note(artifact, "not stored", error=str(away.facts.get("code") or type(away).__name__))
            raise
        except (ArtifactGone, ArtifactDamaged) as failed:
            await self._give_up(artifact, failed)
            return
        finally:
            stopped.set()  # a thread cannot be cancelled, but what it reads can end
        self._pause_s = FIRST_PAUSE_S
        await self._note(artifact, "stored", uri)

    async def _give_up(self, artifact: dict[str, Any], failed: ArtifactGone | ArtifactDamaged) -> None:
        """Warn, if this is not the first time: the file may be removed or replaced by a line that is not read yet."""
        if key(artifact) not in self._not_again:
            self._not_again[key(artifact)] = 0.0
            return
        log.warning("artifact %s of run %s is not stored: %s", artifact["name"], artifact["run_id"], failed)
        self._not_again[key(artifact)] = time.monotonic() + HOPELESS_S
        await self._note(artifact, "not stored", error=type(failed).__name__)

    async def _remove(self, artifact: dict[str, Any]) -> None:
        uri = artifact["stored_uri"]
        await asyncio.to_thread(lambda: self._stores.of(uri).remove(uri))
        await self._note(artifact, "gone")

    async def _note(self, artifact: dict[str, Any], state: str, uri: str | None = None, error: str | None = None) -> Any:
        return await self._store.note_artifact(artifact["id"], artifact["sha256"], state, uri, error)

    async def _path(self, artifact: dict[str, Any]) -> Path:
        (run,) = await self._store.rows("run_list", {"id": artifact["run_id"]}, limit=1)
        return self._runs_dir / str(run["series_id"]) / str(artifact["uri"])

    async def _each(self, to_do: str) -> AsyncIterator[dict[str, Any]]:
        after: int | None = None
        where = {"project_id": self._project_id, "to_do": to_do}
        while page := await self._store.rows("artifact_list", where, after, PAGE):
            for artifact in page:
                yield artifact
            after = page[-1]["key"]


class Stoppable:
    """A file whose reading ends with an error once nobody waits for it any more."""

    def __init__(self, file: Source, stopped: Event) -> None:
        self._file, self._stopped = file, stopped
        self.seek, self.tell, self.seekable, self.close = file.seek, file.tell, file.seekable, file.close

    def read(self, size: int = -1, /) -> bytes:
        if self._stopped.is_set():
            raise ArtifactStoreAway("The server ends.")
        return self._file.read(size)


def keep_file(store: ArtifactStore, uri: str, path: Path, sha256: str, stopped: Event) -> None:
    """Bring a run's file into a store. Raises ArtifactGone, ArtifactDamaged, ArtifactStoreAway."""
    file = open_plain(path)
    if file is None:
        raise ArtifactGone(f"There is no file {path}.", path=str(path))
    with file:
        keep(store, uri, Stoppable(file, stopped), sha256)


def key(artifact: dict[str, Any]) -> tuple[str, str]:
    return artifact["id"], artifact["sha256"]
