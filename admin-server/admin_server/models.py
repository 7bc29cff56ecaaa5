"""Models: artifacts that somebody declared a version of the project's model, each with a copy that nothing else touches.

The copy is named by its sha256 and lies apart from all runs, so what a run keeps or removes cannot reach it: see
docs/decisions/0011-a-promoted-model-is-a-copy.md.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from control_plane.files import open_plain

from admin_server.artifacts.store import CHUNK_BYTES, ArtifactStore, Readable, keep, verify
from admin_server.artifacts.stores import Stores
from admin_server.errors import ArtifactDamaged, ArtifactGone, ArtifactNotFound, ModelNotFound
from db.store import Store

LATEST = "latest"


class Models:
    """The versions of this server's project."""

    def __init__(self, store: Store, project: dict[str, Any], stores: Stores, home: Path) -> None:
        self._store = store
        self._project_id = str(project["id"])
        self._slug = str(project["slug"])
        self._stores = stores
        self._home = home

    async def make(self, artifact: dict[str, Any], by: str, why: str) -> dict[str, Any]:
        """Copy an artifact, read the copy back, and make it the next version and the latest.

        Raises ArtifactGone, ArtifactDamaged, ArtifactStoreAway, Stale.
        """
        store = await asyncio.to_thread(self._stores.newest)
        uri = store.uri_of(f"models/{self._slug}/{artifact['sha256']}{Path(artifact['uri']).suffix}")
        await self.copy(artifact, store, uri)
        return await self._store.add_model(self._project_id, artifact["id"], artifact["sha256"], uri, by, why)

    async def promote(self, version: int, by: str, why: str) -> dict[str, Any]:
        """Make an earlier version the latest again, having read its bytes.

        Raises ModelNotFound, ArtifactGone, ArtifactDamaged, ArtifactStoreAway.
        """
        model = await self.one(str(version))
        await asyncio.to_thread(lambda: verify(self._stores.of(model["uri"]), model["uri"], model["sha256"]))
        return await self._store.promote_model(self._project_id, version, by, why)

    async def one(self, which: str) -> dict[str, Any]:
        """Find a version by its number, or the latest. Raises ModelNotFound."""
        where = {"is_latest": True} if which == LATEST else {"version": int(which)}
        rows = await self._store.rows("model_list", {"project_id": self._project_id, **where}, limit=1)
        if not rows:
            told = "No model has been promoted yet." if which == LATEST else f"There is no model {which}."
            raise ModelNotFound(told, version=which)
        return rows[0]

    async def lineage(self, which: str) -> dict[str, Any]:
        """Say where a version comes from: its run and code, whose updates and datasets, and each promotion, newest first."""
        model = await self.one(which)
        of_it = {"model_id": model["id"]}
        sources = [row async for row in self._all("model_source_list", of_it)]
        return {**model, "sources": sources, "promotions": [row async for row in self._all("promotion_list", of_it)]}

    async def artifact(self, artifact_id: str) -> dict[str, Any]:
        """Find an artifact of the project. Raises ArtifactNotFound."""
        rows = await self._store.rows("artifact_list", {"project_id": self._project_id, "id": artifact_id}, limit=1)
        if not rows:
            raise ArtifactNotFound(f"There is no artifact {artifact_id}.", artifact_id=artifact_id)
        return rows[0]

    async def newest_of(self, run_id: str, role: str) -> dict[str, Any]:
        """Find a run's final or best model. Raises ArtifactNotFound."""
        rows = await self._store.rows("artifact_list", {"run_id": run_id, "role": role, "removed_at": None}, limit=1)
        if not rows:
            raise ArtifactNotFound(f"Run {run_id} has kept no {role} model.", run_id=run_id, role=role)
        return rows[0]

    async def open(self, model: dict[str, Any], begin: int = 0) -> Readable:
        """Open a model to be read from a byte, in a thread. Raises ArtifactGone, ArtifactStoreAway."""
        return await asyncio.to_thread(lambda: self._stores.of(model["uri"]).open(model["uri"], begin))

    async def copy(self, found: dict[str, Any], store: ArtifactStore, uri: str) -> None:
        """Bring the bytes of a version, or of an artifact from its run's directory or its copy, to an address of a store.

        Raises ArtifactGone, ArtifactDamaged, ArtifactStoreAway.
        """
        if "version" in found:
            sources = [partial(self._fetched, found["uri"])]
        else:
            sources = [partial(self._in_run, found, await self._path(found)), partial(self._in_store, found)]
        await asyncio.to_thread(_keep_one_of, sources, store, uri, found["sha256"])

    @contextmanager
    def _in_run(self, artifact: dict[str, Any], path: Path) -> Iterator[BinaryIO]:
        """Open the run's own file: once it is open, a removal takes its name and not its bytes."""
        file = open_plain(path)
        if file is None:
            how = "retention has removed it" if artifact["removed_at"] else f"there is no file {path}"
            raise ArtifactGone(f"Artifact {artifact['name']} is gone: {how}.", artifact_id=artifact["id"], path=str(path))
        with file:
            yield file

    @contextmanager
    def _in_store(self, artifact: dict[str, Any]) -> Iterator[BinaryIO]:
        """Fetch the copy in the bucket, where there is one."""
        if artifact["stored_at"] is None:
            raise ArtifactGone(f"Artifact {artifact['name']} has no copy.", artifact_id=artifact["id"])
        with self._fetched(artifact["stored_uri"]) as file:
            yield file

    @contextmanager
    def _fetched(self, uri: str) -> Iterator[BinaryIO]:
        with tempfile.TemporaryFile(dir=self._home) as file, closing(self._stores.of(uri).open(uri)) as copy:
            shutil.copyfileobj(copy, file, CHUNK_BYTES)
            file.seek(0)
            yield file

    async def _path(self, artifact: dict[str, Any]) -> Path:
        (run,) = await self._store.rows("run_list", {"id": artifact["run_id"]}, limit=1)
        return self._home / "runs" / str(run["series_id"]) / str(artifact["uri"])

    async def _all(self, view: str, where: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        after: int | None = None
        while page := await self._store.rows(view, where, after, 1000):
            for row in page:
                yield row
            after = page[-1]["key"]


def _keep_one_of(
    sources: Sequence[Callable[[], AbstractContextManager[BinaryIO]]], store: ArtifactStore, uri: str, sha256: str
) -> None:
    failed: ArtifactGone | ArtifactDamaged | None = None
    for source in sources:
        try:
            with source() as file:
                return keep(store, uri, file, sha256)
        except (ArtifactGone, ArtifactDamaged) as error:
            failed = failed or error
    assert failed is not None
    raise failed
