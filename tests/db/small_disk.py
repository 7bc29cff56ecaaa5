"""A disk that is really full: a small tmpfs in a user and mount namespace of its own, with a Postgres on it."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
_MOUNT = 'mount -t tmpfs -o size="$1" espalier "$2" && echo mounted && exec cat'
_POSTGRES = (
    "import asyncio, pathlib, sys; from db.embedded import EmbeddedPostgres; "
    "asyncio.run(getattr(EmbeddedPostgres(pathlib.Path(sys.argv[1]), durable=False), sys.argv[2])())"
)


@cache
def is_possible() -> bool:
    """May a file system be mounted in a namespace here?"""
    try:
        tried = subprocess.run([*_NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    except FileNotFoundError:
        return False
    return tried.returncode == 0


@dataclass(frozen=True)
class SmallDisk:
    """A folder, that of an embedded Postgres, which is a small disk for the processes of the holder's namespace."""

    folder: Path
    holder: int

    def command(self, *words: str) -> list[str]:
        """Give the command line that runs a program where the disk is mounted."""
        return ["nsenter", f"--target={self.holder}", "--user", "--mount", "--preserve-credentials", *words]

    @property
    def seen_from_here(self) -> Path:
        """The same folder, for processes outside of the namespace."""
        return Path(f"/proc/{self.holder}/root{self.folder}")

    @property
    def dsn(self) -> str:
        """The DSN of the Postgres whose folder this is."""
        password, port = ((self.seen_from_here / name).read_text() for name in ("password", "port"))
        return f"postgresql://postgres:{password}@127.0.0.1:{port}/espalier"

    def fill(self) -> None:
        """Take all the room that is left."""
        with (self.seen_from_here / "ballast").open("ab", buffering=0) as ballast:
            for size in (2**20, 4096):
                try:
                    while True:
                        ballast.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def make_room(self) -> None:
        """Give it back."""
        (self.seen_from_here / "ballast").unlink(missing_ok=True)

    @contextmanager
    def postgres(self) -> Iterator[str]:
        """Run an embedded Postgres on it, and give its DSN."""
        start, stop = (self.command(sys.executable, "-c", _POSTGRES, str(self.folder), verb) for verb in ("start", "stop"))
        subprocess.run(start, check=True)
        try:
            yield self.dsn
        finally:
            subprocess.run(stop, check=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount it over a folder, which stays empty for all others; it goes with the last process that uses it."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [*_NAMESPACE, "sh", "-c", _MOUNT, "sh", f"{megabytes}m", str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", env=os.environ | {"LC_ALL": "C"}
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"mounted\n"
        yield SmallDisk(folder, holder.pid)
        holder.stdin.close()
