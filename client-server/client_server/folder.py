"""The folder of one site: every file a client server keeps, and nothing outside it."""

import fcntl
import os
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

    def count_at_work(self) -> int:
        """Count the folders beside this one, and it, that a client server holds: at least 1, and 1 where there is no /proc."""
        try:
            lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        except OSError:
            return 1
        held = {fields[5].rpartition(":")[2] for fields in lines if fields[1] == "FLOCK"}
        locks = [lock for lock in self.root.parent.glob("*/lock") if lock.parent != self.root]
        return 1 + sum(str(lock.stat().st_ino) in held for lock in locks)

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
