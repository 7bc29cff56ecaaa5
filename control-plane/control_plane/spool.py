"""Lines that wait on disk until the other side has them."""

import fcntl
import json
import logging
import os
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from control_plane.clock import now
from control_plane.errors import SpoolInUse
from control_plane.files import read_json, sync_folder, write_atomic, write_json

_log = logging.getLogger(__name__)

Record = dict[str, Any]
_DROPPED = "dropped"


class Spool:
    """A queue in append-only segment files, whose lines are numbered 1, 2, 3 … for the life of its folder.

    A line leaves by acknowledge(), or by the cap: then droppable lines go first, oldest first, and after them the others. What
    was dropped is counted by kind and keeps its number: pending() gives a line of kind "dropped" in its place, so the
    other side sees no hole. Nothing is given out that is not on disk; a line that was torn by a crash was never given out, and
    its number is used again. Lines that are not droppable are fsynced one by one.

    Calls may come from several threads; of several processes the first holds the folder, others get SpoolInUse.
    """

    def __init__(self, folder: Path, cap_bytes: int = 1_000_000_000) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._cap_bytes = cap_bytes
        self._segment_bytes = max(4096, min(1_048_576, cap_bytes // 8))
        self._lock = threading.RLock()
        self._holder = _hold(folder / "lock")
        state = read_json(folder / "spool.json") or {"id": str(uuid.uuid4()), "acknowledged": 0, "dropped": {}}
        self._id: str = state["id"]
        self._acknowledged: int = state["acknowledged"]
        self._dropped: Counter[str] = Counter(state["dropped"])
        self._write_state()
        for leftover in folder.glob(".*"):
            leftover.unlink()
        self._segments = {path: path.stat().st_size for path in sorted(folder.glob("*.jsonl"))}
        self._thinned: set[Path] = set()
        last_seq = self._acknowledged
        if self._segments:
            path = next(reversed(self._segments))
            last_seq = max(last_seq, _cut_torn_line(path) or _first_seq(path) - 1)
            self._segments[path] = path.stat().st_size
        self._next_seq = last_seq + 1
        self._file = self._open_segment()
        self._synced = True
        self._forget(self._acknowledged)

    @property
    def id(self) -> str:
        """The name of this numbering: made with the folder, and the same as long as it lives."""
        return self._id

    @property
    def dropped(self) -> dict[str, int]:
        """How many lines of each kind gave way to the cap so far."""
        return dict(self._dropped)

    @property
    def size_bytes(self) -> int:
        """How much the waiting lines take on disk."""
        return sum(self._segments.values())

    def append(self, kind: str, data: dict[str, Any], droppable: bool = False) -> int:
        """Write a line and give its number."""
        with self._lock:
            seq: int = self._next_seq
            record: Record = {"seq": seq, "kind": kind, "at": now(), "data": data}
            line = _encode(record | {"droppable": True} if droppable else record)
            if self._current_bytes and self._current_bytes + len(line) > self._segment_bytes:
                self._begin_segment()
            _write_all(self._file, line)
            self._next_seq += 1
            self._segments[self._path] += len(line)
            self._synced = False
            if not droppable:
                self._sync()
            if self.size_bytes > self._cap_bytes:
                self._make_room()
            return seq

    def pending(self, limit: int = 500) -> list[Record]:
        """Give the oldest lines that are not acknowledged, without a hole: {"seq", "kind", "at", "data"}.

        In place of a dropped line: kind "dropped", data {"<its kind>_lines": n}, where n is len(data["lines"]) of what
        was dropped, or 1. A row of dropped lines says its sums in the first one and {} in the others.
        """
        with self._lock:
            self._sync()
            given: list[Record] = []
            for path in list(self._segments):
                for record in _expanded(path):
                    if record["seq"] > self._acknowledged:
                        record.pop("droppable", None)
                        given.append(record)
                        if len(given) >= limit:
                            return given
            return given

    def acknowledge(self, seq: int) -> None:
        """Forget the lines up to this number, which the other side has for good; an older number than the last changes nothing.

        Raises ValueError for a number that was never given out: then the other side knows another spool.
        """
        with self._lock:
            if seq >= self._next_seq:
                raise ValueError(f"line {seq} was acknowledged, but {self._next_seq - 1} is the last one in this spool")
            if seq > self._acknowledged:
                self._acknowledged = seq
                self._write_state()
                self._forget(seq)

    def close(self) -> None:
        """Write what is not on disk yet, and let another process have the folder."""
        with self._lock:
            self._sync()
            os.close(self._file)
            os.close(self._holder)

    @property
    def _path(self) -> Path:
        return next(reversed(self._segments))

    @property
    def _current_bytes(self) -> int:
        return self._segments[self._path]

    def _open_segment(self) -> int:
        if not self._segments:
            self._segments[self.folder / f"{self._next_seq:020d}.jsonl"] = 0
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _begin_segment(self) -> None:
        self._sync()
        os.close(self._file)
        self._segments[self.folder / f"{self._next_seq:020d}.jsonl"] = 0
        self._file = self._open_segment()
        sync_folder(self.folder)

    def _sync(self) -> None:
        if not self._synced:
            os.fsync(self._file)
            self._synced = True

    def _forget(self, seq: int) -> None:
        """Delete the segments whose lines are all acknowledged; the last one stays, to be written on."""
        for path, following in zip(list(self._segments), list(self._segments)[1:], strict=False):
            if _first_seq(following) - 1 > seq:
                return
            path.unlink()
            del self._segments[path]
            self._thinned.discard(path)

    def _make_room(self) -> None:
        """Come down to two segments below the cap, so that the next lines need no room made for each of them."""
        goal = self._cap_bytes - 2 * self._segment_bytes
        if self._current_bytes:
            self._begin_segment()
        for droppable_only in (True, False):
            for path in list(self._segments)[:-1]:
                if self.size_bytes <= goal:
                    break
                if not (droppable_only and path in self._thinned):
                    self._thin_out(path, droppable_only)
                    self._thinned.add(path)
        self._write_state()

    def _thin_out(self, path: Path, droppable_only: bool) -> None:
        kept: list[Record] = []
        for record in _records(path):
            if record["kind"] == _DROPPED or (droppable_only and not record.get("droppable")):
                stone = record
            else:
                stone = _tombstone(record)
                self._dropped[record["kind"]] += 1
            if stone["kind"] == _DROPPED and kept and kept[-1]["kind"] == _DROPPED:
                sums: Counter[str] = Counter(kept[-1]["data"]) + Counter(stone["data"])
                kept[-1] = kept[-1] | {"to": stone.get("to", stone["seq"]), "data": dict(sums)}
            else:
                kept.append(stone)
        text = b"".join(map(_encode, kept))
        if len(text) < self._segments[path]:
            write_atomic(path, text)
            self._segments[path] = len(text)

    def _write_state(self) -> None:
        state = {"id": self._id, "acknowledged": self._acknowledged, "dropped": dict(self._dropped)}
        write_json(self.folder / "spool.json", state)


def _hold(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SpoolInUse(f"{path.parent} is written by another process.") from None
    return descriptor


def _cut_torn_line(path: Path) -> int | None:
    """Cut a segment after its last whole line, and say that line's number; None when no line is left."""
    whole, last_seq = 0, None
    with path.open("r+b") as file:
        while (record := _decode(line := file.readline())) is not None:
            whole += len(line)
            last_seq = record.get("to", record["seq"])
        if torn := file.seek(0, os.SEEK_END) - whole:
            _log.warning("%s ended in %d bytes of a line that a crash tore: they are cut off", path, torn)
        file.truncate(whole)
        os.fsync(file.fileno())
    return last_seq


def _expanded(path: Path) -> Iterator[Record]:
    """Yield the lines of a segment, a row of dropped ones as single lines again."""
    for record in _records(path):
        to = record.pop("to", record["seq"])
        yield record
        for seq in range(record["seq"] + 1, to + 1):
            yield record | {"seq": seq, "data": {}}


def _records(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for line in file:
            record = _decode(line)
            if record is None:
                raise ValueError(f"{path} is damaged: {line[:80]!r} is no line of a spool")
            yield record


def _tombstone(record: Record) -> Record:
    lines = record["data"].get("lines")
    count = len(lines) if isinstance(lines, list) else 1
    return {"seq": record["seq"], "kind": _DROPPED, "at": record["at"], "data": {f"{record['kind']}_lines": count}}


def _encode(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _decode(line: bytes) -> Record | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("seq"), int) else None


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _first_seq(path: Path) -> int:
    return int(path.stem)
