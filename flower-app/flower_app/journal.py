"""journal.jsonl: what happened in a run, one JSON object a line, in order; docs/journal.md has the records.

One process writes at a time (flock). A line without its newline, or a last line that is no JSON, is what a crash
left: it is cut off at opening, and seq goes on after the last good line.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from flower_app.clock import Clock

Record = dict[str, Any]


class JournalBusy(RuntimeError):
    """Another ServerApp still writes this run's journal."""


class JournalDamaged(RuntimeError):
    """A line before the last one is not a record: more than a crash happened to the file."""


class Journal:
    """The journal of one run, opened for one attempt.

    `past` holds the records that earlier attempts wrote.
    """

    def __init__(self, path: Path, attempt: str, clock: Clock) -> None:
        """Open, lock, repair.

        Raises JournalBusy, JournalDamaged.
        """
        self._attempt, self._clock = attempt, clock
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise JournalBusy(f"another ServerApp still runs on {path}; this attempt ends") from error
        try:
            self.past = self._repair(path)
        except BaseException:
            os.close(self._file)
            raise
        self._seq = self.past[-1]["seq"] if self.past else 0

    def append(self, kind: str, fields: Record, *, durable: bool = False) -> Record:
        """Write one record in one write; durable ones are on disk when this returns, with all before them."""
        self._seq += 1
        at = self._clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        record = {"seq": self._seq, "at": at, "attempt": self._attempt, "kind": kind, **fields}
        line = (json.dumps(record, allow_nan=False, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
        while line:
            line = line[os.write(self._file, line) :]
        if durable:
            os.fsync(self._file)
        return record

    def close(self) -> None:
        """Release the file and its lock."""
        os.close(self._file)

    def _repair(self, path: Path) -> list[Record]:
        data = path.read_bytes()
        records: list[Record] = []
        end = 0
        *lines, _torn = data.split(b"\n")
        for number, line in enumerate(lines, 1):
            record = _parsed(line)
            if record is None:
                if number < len(lines):
                    raise JournalDamaged(f"line {number} of {path} is not a journal record")
                break
            records.append(record)
            end += len(line) + 1
        if end < len(data):
            os.ftruncate(self._file, end)
            os.fsync(self._file)
        return records


def read_journal(path: Path) -> list[Record]:
    """Give the whole records of a journal, as a reader beside its writer sees them."""
    lines = path.read_bytes().split(b"\n")[:-1]
    return [record for line in lines if (record := _parsed(line)) is not None]


def _parsed(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("seq"), int) else None
