"""The final model of a run whose engine could not keep it: killed, ended by Flower, or not there between two attempts.

It is made of the last commit and told in the journal, file before line, just as the engine does (docs/journal.md): so uploads,
replay and the next attempt know of it, and whatever a crash leaves is made good by doing it again.
"""

import asyncio
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from control_plane.files import open_plain, sync_folder

from admin_server.artifacts.store import CHUNK_BYTES, digest
from admin_server.rundir import RunDirectory
from admin_server.watch.tails import JournalTail
from db.store import Store

log = logging.getLogger(__name__)
ROLE, MODEL = "final", "model/"
Record = dict[str, Any]


async def keep_final(store: Store, run_id: str, directory: RunDirectory) -> None:
    """Keep the last committed model of a run that ends or has ended, unless that is done, and see that the store knows.

    A run without a commit has none. What stands in the way is logged, and the run ends all the same. Raises DatabaseUnavailable.
    """
    if not directory.journal.is_file():
        return
    try:
        await asyncio.to_thread(make_final, directory)
    except (OSError, ValueError, KeyError, TypeError) as failed:
        log.error("the final model of run %s is not kept: %r", run_id, failed)
    (run,) = await store.rows("run_list", {"id": run_id}, limit=1)
    await JournalTail(store, run_id, directory, int(run["journal_offset"])).catch_up()


def make_final(directory: RunDirectory) -> None:
    """Make the file and its line. Raises OSError, and ValueError for damage."""
    with _locked(directory.journal) as journal:
        last, end = _read(journal)
        commit, final = last.get("round.closed"), last.get(ROLE)
        if commit is None or (final is not None and final["round"] >= commit["round"]):
            return
        path = directory.path / "models" / f"{ROLE}.safetensors"
        with _opened(directory.path / "commit" / Path(commit["commit"]["file"]).name, commit["commit"]["sha256"]) as file:
            sha256, size_bytes = _write(_model_of(file, commit["round"]), path)
        line = {
            "seq": last["any"]["seq"] + 1,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "attempt": commit["attempt"],
            "kind": "artifact",
            "name": ROLE,
            "role": ROLE,
            "path": path.relative_to(directory.path).as_posix(),
            "sha256": sha256,
            "size_bytes": size_bytes,
            "format": "safetensors",
            "round": commit["round"],
            "parents": [commit["commit"]["sha256"]],
            "score": None,
        }
        journal.seek(end)
        journal.truncate()
        journal.write((json.dumps(line, separators=(",", ":")) + "\n").encode())
        _sync(journal)


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open the journal as its one writer. Raises BlockingIOError while a ServerApp is that."""
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file


def _read(journal: BinaryIO) -> tuple[dict[str, Record], int]:
    """Give the last record of all ("any"), of each kind and of each role, and where the records end: a crash may leave more."""
    last: dict[str, Record] = {}
    end = 0
    for line in journal:
        record = _parsed(line)
        if record is None:
            break
        end += len(line)
        last["any"] = last[record["kind"]] = record
        if record["kind"] == "artifact":
            last[record["role"]] = record
    if b"\n" in journal.read():
        raise ValueError(f"a line of {journal.name} before its last one is not a journal record")
    return last, end


def _parsed(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if line.endswith(b"\n") and isinstance(record, dict) and isinstance(record.get("seq"), int) else None


@contextmanager
def _opened(path: Path, sha256: str) -> Iterator[BinaryIO]:
    """Open a commit. Raises ValueError when it is not the one that its line proves."""
    file = open_plain(path)
    if file is None:
        raise ValueError(f"{path} is missing")
    with file:
        if digest(file) != sha256:
            raise ValueError(f"{path} is not the file that the journal committed: its sha256 differs")
        file.seek(0)
        yield file


def _model_of(commit: BinaryIO, number: int) -> Iterator[bytes]:
    """Give the safetensors file of a commit's model, with the plain names and without the strategy's state, piece by piece."""
    begin = 8 + int.from_bytes(commit.read(8), "little")
    tensors: dict[str, Any] = json.loads(commit.read(begin - 8))
    header: dict[str, Any] = {"__metadata__": {"round": str(number)}}
    spans: list[tuple[int, int]] = []
    offset = 0
    for name, tensor in tensors.items():
        if name.startswith(MODEL):
            first, end = tensor["data_offsets"]
            header[name.removeprefix(MODEL)] = {**tensor, "data_offsets": [offset, offset + end - first]}
            spans.append((first, end))
            offset += end - first
    if not spans:
        raise ValueError(f"{commit.name} holds no model")
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for first, end in spans:
        commit.seek(begin + first)
        for at in range(first, end, CHUNK_BYTES):
            yield commit.read(min(CHUNK_BYTES, end - at))


def _write(pieces: Iterator[bytes], path: Path) -> tuple[str, int]:
    """Put a file on disk before its name shows; give its sha256 and size."""
    path.parent.mkdir(exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    found, size_bytes = hashlib.sha256(), 0
    with scratch.open("wb") as file:
        for piece in pieces:
            found.update(piece)
            size_bytes += file.write(piece)
        _sync(file)
    scratch.replace(path)
    sync_folder(path.parent)
    return found.hexdigest(), size_bytes


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
