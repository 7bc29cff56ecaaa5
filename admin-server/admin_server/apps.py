"""The apps that may run: folders below APPS_DIR, and FABs that were uploaded."""

import asyncio
import hashlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.environment import child_environment
from control_plane.files import write_atomic

from admin_server.errors import AppInvalid, AppNotFound
from admin_server.run_config import Limits, Scalar

BUILD_TIMEOUT_S = 60.0
SHA256 = re.compile(r"[0-9a-f]{64}")
IGNORED = frozenset({".venv", ".git", "__pycache__", "node_modules", ".mypy_cache", ".ruff_cache", ".pytest_cache"})


@dataclass(frozen=True)
class Fab:
    """A built app: its file and hash, what it is called, the run-config keys it declares, and the limits of some of them."""

    path: Path
    sha256: str
    fab_id: str
    version: str
    declared: dict[str, Scalar]
    limits: dict[str, Limits]
    writes_journal: bool = False


class Apps:
    """Find and build apps. A folder is built anew only when one of its files has changed."""

    def __init__(self, apps_dir: Path, fabs_dir: Path) -> None:
        self._apps_dir = apps_dir
        self._fabs_dir = fabs_dir
        fabs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._built: dict[Path, tuple[str, Fab]] = {}
        self._building = asyncio.Lock()

    async def fab(self, app: str) -> Fab:
        """Build the app of that name, or find the FAB with that sha256. Raises AppNotFound, AppInvalid."""
        source = self._uploaded(app) if SHA256.fullmatch(app) else self._folder(app)
        async with self._building:  # two builds at once cost each other more than they gain
            mark = await asyncio.to_thread(fingerprint, source)
            known = self._built.get(source)
            if known is None or known[0] != mark or not known[1].path.is_file():
                self._built[source] = known = (mark, await build(source, self._fabs_dir))
                self._built[known[1].path] = (fingerprint(known[1].path), known[1])  # the same under its hash
            return known[1]

    def content(self, sha256: str) -> bytes | None:
        """Give a FAB that was built or uploaded here; None for one that a shell brought to the SuperLink."""
        path = self._fabs_dir / f"{sha256}.fab"
        return path.read_bytes() if path.is_file() else None

    async def writes_journal(self, sha256: str) -> bool:
        """Does the app declare that it writes the journal of docs/journal.md? False for one that a shell brought."""
        try:
            return (await self.fab(sha256)).writes_journal
        except (AppNotFound, AppInvalid):
            return False

    async def upload(self, content: bytes) -> Fab:
        """Keep a FAB under its sha256. Raises AppInvalid when it is none."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._fabs_dir / f"{sha256}.fab"
        is_new = not path.exists()
        write_atomic(path, content)
        try:
            return await self.fab(sha256)
        except AppInvalid:
            if is_new:
                path.unlink(missing_ok=True)
            raise

    def _uploaded(self, sha256: str) -> Path:
        path = self._fabs_dir / f"{sha256}.fab"
        if not path.is_file():
            raise AppNotFound(f"There is no uploaded FAB {sha256}.", app=sha256)
        return path

    def _folder(self, app: str) -> Path:
        if not app.isprintable() or any(len(part.encode()) > 255 for part in app.split("/")) or len(app) > 1000:
            raise AppInvalid("An app is named by a folder below APPS_DIR; this cannot be a folder's name.", app=app[:100])
        root = self._apps_dir.resolve()
        folder = (root / app).resolve()
        if Path(app).is_absolute() or not folder.is_relative_to(root) or folder == root:
            raise AppInvalid(f"{app!r} lies outside APPS_DIR.", app=app)
        if not folder.is_dir():
            raise AppNotFound(f"There is no folder {app!r} below APPS_DIR.", app=app)
        if not (folder / "pyproject.toml").is_file():
            raise AppInvalid(f"{app!r} has no pyproject.toml, so it is no Flower app.", app=app)
        return folder


def fingerprint(source: Path) -> str:
    """Say in a few letters what all files of a source look like: path, size and time of change."""
    digest = hashlib.sha256()
    paths = sorted(walk(source)) if source.is_dir() else [source]
    for path in paths:
        stat = path.stat()
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def walk(folder: Path) -> list[Path]:
    found: list[Path] = []
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and path.name not in IGNORED:
            found += walk(path)
        elif path.is_file():
            found.append(path)
    return found


async def build(source: Path, fabs_dir: Path) -> Fab:
    """Build a folder, or read a FAB, in a fresh process. Raises AppInvalid with Flower's own words."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "admin_server.fab", str(source), str(fabs_dir)),
        env=child_environment(),
        cwd=fabs_dir,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(BUILD_TIMEOUT_S):
            out, err = await child.communicate()
    except TimeoutError:
        raise AppInvalid(f"{source.name} took longer than {BUILD_TIMEOUT_S:.0f} s to build.", app=source.name) from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return read_answer(source.name, child.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def read_answer(app: str, rc: int | None, out: str, err: str) -> Fab:
    """Read what the build process said last. Raises AppInvalid."""
    try:
        answer: dict[str, Any] = json.loads(out.strip().rpartition("\n")[2])
    except json.JSONDecodeError:
        last = [line for line in err.splitlines() if line.strip()][-20:]
        raise AppInvalid(f"Building {app} ended with exit code {rc} and no answer.", app=app, last_lines=last) from None
    if "refused" in answer:
        raise AppInvalid(f"{app} is no Flower app that can run: {answer['refused']}", app=app)
    limits = {key: Limits.of(key, told) for key, told in answer["limits"].items()}
    return Fab(
        Path(answer["path"]),
        answer["sha256"],
        answer["fab_id"],
        answer["version"],
        answer["declared"],
        limits,
        answer["writes_journal"],
    )
