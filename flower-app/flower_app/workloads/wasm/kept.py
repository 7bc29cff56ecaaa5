"""What a site keeps below its cache folder by its sha256: modules, and the manifests that lead to them."""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

Kind = Literal["wasm", "json"]
FOLDER = Path("wasm", "modules")
MOST_FILES, MOST_BYTES = 64, 512 << 20
SCRATCH_S = 3600.0
"""From when on a scratch file is taken for one whose writer was killed."""


def read_kept(cache_dir: Path | None, sha256: str, kind: Kind = "wasm") -> bytes | None:
    """Give what has this sha256; None where it is not kept, or cannot be read. A file that was changed since is deleted."""
    if cache_dir is None:
        return None
    path = cache_dir / FOLDER / f"{sha256}.{kind}"
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            path.unlink(missing_ok=True)
            return None
    except OSError:
        return None
    mark_as_used(path)
    return content


def keep(cache_dir: Path | None, content: bytes, kind: Kind = "wasm") -> None:
    """Keep it under its sha256, and let go of what was used least lately. Raises OSError."""
    if cache_dir is None:
        return
    folder, sha256 = cache_dir / FOLDER, hashlib.sha256(content).hexdigest()
    if read_kept(cache_dir, sha256, kind) is None:
        write_whole(folder / f"{sha256}.{kind}", content)
    bound(folder, MOST_FILES, MOST_BYTES)


def mark_as_used(file: Path | int) -> None:
    """Let a file, or that of a descriptor, stay longest; in a folder that is read-only nothing is let go of."""
    with suppress(OSError):
        os.utime(file)


def write_whole(path: Path, content: bytes) -> None:
    """Write beside the path, then rename, in a folder of mode 0700. Raises OSError.

    Each writer has a scratch file of its own: ClientApps of several runs may write the same path at once.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def bound(folder: Path, most: int, most_bytes: int) -> None:
    """Delete what killed writers have left, and the oldest files until so many and so many bytes are left. Raises OSError."""
    remove_scratch(folder)
    remove_oldest([[path] for path in folder.iterdir() if not _is_scratch(path)], most, most_bytes)


def remove_scratch(folder: Path) -> None:
    """Delete the scratch files of writers that were killed. Raises OSError."""
    before_ns = time.time_ns() - int(SCRATCH_S * 1e9)
    for path in filter(_is_scratch, folder.iterdir()):
        told = stat_of(path)
        if told and told.st_mtime_ns < before_ns:
            path.unlink(missing_ok=True)


def remove_oldest(groups: Iterable[Sequence[Path]], most: int, most_bytes: int) -> None:
    """Delete whole groups of files, those with the oldest first file first, until at most so many and so many bytes are left.

    The newest one stays, whatever its size.
    """
    known = []
    for group in groups:
        told = [found for path in group if (found := stat_of(path))]
        if told:
            known.append((told[0].st_mtime_ns, sum(each.st_size for each in told), group))
    left = sum(size for _, size, _ in known)
    for place, (_, size, group) in enumerate(sorted(known, key=lambda each: each[0])):
        remaining = len(known) - place
        if remaining == 1 or (remaining <= most and left <= most_bytes):
            return
        for path in group:
            path.unlink(missing_ok=True)
        left -= size


def stat_of(path: Path) -> os.stat_result | None:
    """Look at a file; None where another ClientApp has deleted it meanwhile."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _is_scratch(path: Path) -> bool:
    return path.name.startswith(".")
