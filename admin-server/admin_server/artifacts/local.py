"""An artifact store on this machine: files below ESPALIER_HOME, readable alone."""

import os
import shutil
import tempfile
from pathlib import Path

from control_plane.files import open_plain, sync_folder

from admin_server.artifacts.store import CHUNK_BYTES, Readable, Source
from admin_server.errors import ArtifactGone, ArtifactStoreAway
from admin_server.journal import inside

PART = ".part-"
FOLDERS = ("models/*", "initial-models")
"""Below the home: of promoted models, by project, and of models that runs start from."""


class LocalStore:
    """Its addresses are paths relative to the home, so that a home can be moved."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def sweep(self) -> None:
        """Remove what a crash left half written. One server at a time works in a home, and this one has just begun."""
        for folder in FOLDERS:
            for part in self._home.glob(f"{folder}/{PART}*"):
                part.unlink(missing_ok=True)

    def uri_of(self, name: str) -> str:
        """Give the name itself."""
        return name

    def put(self, uri: str, source: Source) -> None:
        """Copy, fsync, rename. A copy and no link: what runs in the run's directory cannot change its bytes."""
        path = self._path(uri)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=PART, delete=False) as part:
                try:
                    shutil.copyfileobj(source, part, CHUNK_BYTES)
                    part.flush()
                    os.fchmod(part.fileno(), 0o400)
                    os.fsync(part.fileno())
                    os.replace(part.name, path)
                except BaseException:
                    os.unlink(part.name)
                    raise
            sync_folder(path.parent)
        except OSError as error:
            raise ArtifactStoreAway(f"{path} cannot be written ({error.strerror}).", uri=uri) from None

    def open(self, uri: str, begin: int = 0) -> Readable:
        """Raises ArtifactGone."""
        file = open_plain(self._path(uri))
        if file is None:
            raise ArtifactGone(f"There is no file {uri} below {self._home}.", uri=uri)
        file.seek(begin)
        return file

    def remove(self, uri: str) -> None:
        """Unlink."""
        self._path(uri).unlink(missing_ok=True)

    def _path(self, uri: str) -> Path:
        return self._home / inside(uri)
