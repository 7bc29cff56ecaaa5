"""Compiled modules, kept below the cache folder by the sha256 of the module and what else they depend on.

What is kept is run as native code: a folder or a file that another user owns or may write to is not looked at.
"""

import hashlib
import os
import stat
from pathlib import Path

from flower_app.workloads.wasm.engine import config_digest
from flower_app.workloads.wasm.kept import bound, mark_as_used, write_whole

FOLDER = Path("wasm", "compiled")
MOST_FILES, MOST_BYTES = 16, 512 << 20
_DIGEST_BYTES = hashlib.sha256().digest_size


def read(cache_dir: Path | None, sha256: str) -> bytes | None:
    """Give the code of a module; None where it is not kept, not whole, or not ours alone."""
    if cache_dir is None or not _is_ours_alone(cache_dir / FOLDER):
        return None
    try:
        descriptor = os.open(_path(cache_dir, sha256), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        told = os.fstat(descriptor)
        if not stat.S_ISREG(told.st_mode) or not _is_ours(told):
            return None
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read()
        mark_as_used(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    native = content[_DIGEST_BYTES:]
    return native if hashlib.sha256(native).digest() == content[:_DIGEST_BYTES] else None


def keep(cache_dir: Path | None, sha256: str, native: bytes) -> None:
    """Keep it, and let go of what was used least lately; a folder that takes nothing costs the next call the time."""
    if cache_dir is None:
        return
    folder = cache_dir / FOLDER
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours_alone(folder):
            print(f"no compiled module is kept in {folder}, for others own it or may write to it", flush=True)
            return
        write_whole(_path(cache_dir, sha256), hashlib.sha256(native).digest() + native)
        bound(folder, MOST_FILES, MOST_BYTES)
    except OSError as error:
        print(f"a module is compiled again next time, for it cannot be kept: {error}", flush=True)


def _path(cache_dir: Path, sha256: str) -> Path:
    return cache_dir / FOLDER / f"{sha256}-{config_digest()[:16]}.cwasm"


def _is_ours_alone(folder: Path) -> bool:
    try:
        told = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(told.st_mode) and _is_ours(told)


def _is_ours(told: os.stat_result) -> bool:
    return told.st_uid == os.geteuid() and not told.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
