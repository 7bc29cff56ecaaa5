"""Models that runs start from: versions and artifacts, under the sha256 of their files, where ServerApps may read them."""

import re
from pathlib import Path

from admin_server.artifacts.local import LocalStore
from admin_server.errors import ArtifactDamaged, ArtifactGone, ArtifactNotFound, InitialModelUnfit, ModelNotFound
from admin_server.ids import is_uuid
from admin_server.models import LATEST, Models

KEY = "initial-model"
"""The run-config key by which the engine is told the sha256."""
FOLDER = "initial-models"
VERSION = re.compile(rf"{LATEST}|[0-9]{{1,9}}")


class InitialModels:
    """The folder of initial models. A file is named by its content, so it is there before the run that reads it."""

    def __init__(self, models: Models, home: Path) -> None:
        self._models = models
        self._disk = LocalStore(home)

    async def place(self, which: str) -> str:
        """Put a model into the folder and give its sha256.

        which: a version ("3"), "latest", or the id of an artifact. Raises InitialModelUnfit, ArtifactStoreAway.
        """
        is_version = VERSION.fullmatch(which) is not None
        if not is_version and not is_uuid(which):
            raise InitialModelUnfit(f"{which} is neither a version of the model nor the id of an artifact.", initial_model=which)
        try:
            found = await (self._models.one(which) if is_version else self._models.artifact(which))
            kind = found["facts"]["format"] if is_version else found["format"]
            if kind != "safetensors":
                raise InitialModelUnfit(f"{which} is of format {kind}; a run starts from safetensors.", initial_model=which)
            sha256 = str(found["sha256"])
            await self._models.copy(found, self._disk, self._disk.uri_of(f"{FOLDER}/{sha256}.safetensors"))
        except (ArtifactNotFound, ModelNotFound, ArtifactGone, ArtifactDamaged) as unfit:
            raise InitialModelUnfit(f"No run can start from {which}: {unfit}", initial_model=which) from unfit
        return sha256
