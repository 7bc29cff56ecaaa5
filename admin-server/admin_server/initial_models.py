"""Models that runs start from: artifacts of earlier runs, under the sha256 of their files, where ServerApps may read them."""

import asyncio
import hashlib
import os
import re
import shutil
from pathlib import Path

from admin_server.errors import InitialModelUnfit
from db.store import Store

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
KEY = "initial-model"
"""The run-config key by which the engine is told the sha256."""


class InitialModels:
    """The folder of initial models. A file is named by its content, so it is there before the run that reads it."""

    def __init__(self, store: Store, project_id: str, runs_dir: Path, folder: Path) -> None:
        self._store = store
        self._project_id = project_id
        self._runs_dir = runs_dir
        self._folder = folder

    async def place(self, artifact_id: str) -> str:
        """Put an artifact of a run of this server into the folder; give its sha256. Raises InitialModelUnfit."""
        where = {"id": artifact_id, "project_id": self._project_id}
        found = await self._store.rows("artifact_list", where, limit=1) if UUID.fullmatch(artifact_id) else []
        if not found:
            raise InitialModelUnfit(f"There is no artifact {artifact_id}.", artifact_id=artifact_id)
        artifact = found[0]
        if artifact["format"] != "safetensors":
            told = f"Artifact {artifact_id} is of format {artifact['format']}; a run starts from safetensors."
            raise InitialModelUnfit(told, artifact_id=artifact_id)
        (run,) = await self._store.rows("run_list", {"id": artifact["run_id"]}, limit=1)
        source = self._runs_dir / run["series_id"] / artifact["uri"]
        sha256: str = artifact["sha256"]
        if not await asyncio.to_thread(copied, source, self._folder / f"{sha256}.safetensors", sha256):
            raise InitialModelUnfit(f"The file of artifact {artifact_id} is gone, or not what it was.", artifact_id=artifact_id)
        return sha256


def copied(source: Path, target: Path, sha256: str) -> bool:
    """Have target be a copy of source, whose sha256 is told; False when it is another file or none."""
    try:
        if not target.exists():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copyfile(source, part)
            part.replace(target)
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return True
    except FileNotFoundError:
        return False
    target.unlink()
    return False
