"""What an artifact store does, and how a file gets into one: read, written, read back, each time by its sha256."""

import hashlib
from contextlib import closing
from typing import Protocol

from admin_server.errors import ArtifactDamaged, ArtifactGone

CHUNK_BYTES = 1024 * 1024


class Readable(Protocol):
    """What can be read once, forwards."""

    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


class Source(Readable, Protocol):
    """A file that can be read again."""

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def tell(self) -> int: ...

    def seekable(self) -> bool: ...


class ArtifactStore(Protocol):
    """Keeps files by their address. Every method blocks, so it is called in a thread, and may raise ArtifactStoreAway."""

    def uri_of(self, name: str) -> str:
        """Give the address of a name like models/x.safetensors."""

    def put(self, uri: str, source: Source) -> None:
        """Keep a file, read from where it stands to its end; a reader sees all of it or none. The file may be closed then."""

    def open(self, uri: str, begin: int = 0) -> Readable:
        """Open a file to be read forwards from a byte. Raises ArtifactGone."""

    def remove(self, uri: str) -> None:
        """Forget a file; one that is not there is no error."""


def keep(store: ArtifactStore, uri: str, source: Source, sha256: str) -> None:
    """Bring a seekable file into a store unless it is there already, and see that the store gives the same bytes back.

    Raises ArtifactDamaged, ArtifactStoreAway.
    """
    if digest(source) != sha256:
        raise ArtifactDamaged(f"The file to be kept at {uri} is not the recorded one: its sha256 is not {sha256}.", sha256=sha256)
    if holds(store, uri, sha256):
        return
    source.seek(0)
    store.put(uri, source)
    try:
        verify(store, uri, sha256)
    except ArtifactDamaged:
        store.remove(uri)
        raise


def verify(store: ArtifactStore, uri: str, sha256: str) -> None:
    """Read a file whole. Raises ArtifactGone, ArtifactDamaged."""
    with closing(store.open(uri)) as file:
        if digest(file) != sha256:
            raise ArtifactDamaged(f"{uri} is not what was stored there: its sha256 is not {sha256}.", uri=uri, sha256=sha256)


def holds(store: ArtifactStore, uri: str, sha256: str) -> bool:
    """Are these bytes there?"""
    try:
        verify(store, uri, sha256)
    except (ArtifactGone, ArtifactDamaged):
        return False
    return True


def digest(file: Readable) -> str:
    """Hash the rest of a file."""
    found = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        found.update(chunk)
    return found.hexdigest()
