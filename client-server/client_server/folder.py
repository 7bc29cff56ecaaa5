"""The folder of one site: every file a client server keeps, and nothing outside it."""

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO


class SiteInUse(RuntimeError):
    """Another client server holds this site's folder."""


@dataclass(frozen=True)
class SiteFolder:
    """Name the files below $ESPALIER_HOME/sites/<participant node id>/."""

    root: Path

    def prepare(self) -> None:
        """Make the folders, readable by their owner alone."""
        for folder in (self.root, self.supernode, self.clientapps, self.flwr_home, self.cache, self.spool):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def claim(self) -> IO[bytes]:
        """Hold the folder for this process until the file that is returned is closed.

        Raises SiteInUse when another client server holds it: two of them would fight over one SuperNode.
        """
        file = (self.root / "lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise SiteInUse(f"another client server is at work in {self.root}") from error
        os.set_inheritable(file.fileno(), False)
        return file

    def count_at_work(self, locks: Path = Path("/proc/locks")) -> int:
        """Count this folder, which our process has claimed, and those beside it that a client server holds; 1 without /proc.

        Devices in /proc/locks are not always those that stat() gives (btrfs): our own lock's line says which one is meant.
        """
        held: dict[str, set[str]] = {}
        with suppress(OSError):
            for fields in map(str.split, locks.read_text().splitlines()):
                if fields[1] == "FLOCK":
                    device, _, inode = fields[5].rpartition(":")
                    held.setdefault(inode, set()).add(device)
        ours = held.get(_inode(self.root / "lock"), set())
        others = [lock for lock in self.root.parent.glob("*/lock") if lock.parent != self.root]
        return 1 + sum(not ours.isdisjoint(held.get(_inode(lock), set())) for lock in others)

    @property
    def site_token(self) -> Path:
        return self.root / "site.token"

    @property
    def identity(self) -> Path:
        return self.root / "identity.json"

    @property
    def node_key(self) -> Path:
        return self.root / "node.key"

    @property
    def node_pub(self) -> Path:
        return self.root / "node.pub"

    @property
    def node_token(self) -> Path:
        return self.root / "node.token"

    @property
    def ca_certificate(self) -> Path:
        return self.root / "ca.crt"

    @property
    def start_request(self) -> Path:
        return self.root / "supernode.json"

    @property
    def inventory(self) -> Path:
        return self.root / "inventory.json"

    @property
    def wanted(self) -> Path:
        return self.root / "wanted.json"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def forwarded(self) -> Path:
        return self.root / "forwarded.json"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def supernode(self) -> Path:
        return self.root / "supernode"

    @property
    def session(self) -> Path:
        return self.supernode / "session.json"

    @property
    def activity(self) -> Path:
        return self.supernode / "activity.jsonl"

    @property
    def clientapps(self) -> Path:
        return self.supernode / "clientapps"

    @property
    def flwr_home(self) -> Path:
        return self.supernode / "flwr-home"


def _inode(file: Path) -> str:
    """Give a file's inode; nothing of one that is gone meanwhile."""
    try:
        return str(file.stat().st_ino)
    except OSError:
        return ""
