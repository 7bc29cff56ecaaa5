"""Two files of a run, read on from where the store is: its journal and its ServerApp's output."""

import contextlib
import json
import logging
from typing import Any

from control_plane.logfiles import Tail

from admin_server.journal import parse_line
from admin_server.rundir import RunDirectory, stream_of
from admin_server.watch.server_log import Leveller
from db.store import Store

log = logging.getLogger(__name__)
BATCH = 500
LOOK_BACK_BYTES = 2**20
RECORD_LIMIT_BYTES = 64 * 2**20  # a cause may be 100 kB; a line longer than this is no record of the engine


class JournalTail:
    """Apply a journal's new lines to the store, each once. A line that is no record is logged and passed over."""

    def __init__(self, store: Store, run_id: str, directory: RunDirectory, offset: int = 0) -> None:
        self._store = store
        self._run_id = run_id
        self._path = directory.journal
        self._tail = Tail(directory.journal, offset, line_limit_bytes=RECORD_LIMIT_BYTES)
        self._applied: list[dict[str, Any]] = []

    def look_back(self) -> list[dict[str, Any]]:
        """Give the last records that are applied already: a server before us may have done no more with them than that."""
        behind = Tail(self._path, max(0, self._tail.offset - LOOK_BACK_BYTES), line_limit_bytes=RECORD_LIMIT_BYTES)
        if behind.offset:
            behind.read(1)  # it begins inside a line
        records = []
        while behind.offset < self._tail.offset and (lines := behind.read(1)):
            with contextlib.suppress(ValueError):  # it was told when it was refused
                records.append(parse_line(lines[0].text))
        return records

    async def catch_up(self) -> list[dict[str, Any]]:
        """Apply all complete lines there are; give the records. Raises DatabaseUnavailable, and the rest comes next time."""
        if self._path.is_file() and self._path.stat().st_size < self._tail.offset:
            log.warning("the journal of run %s has lost lines that were not on disk yet, and is applied anew", self._run_id)
            await self._store.forget_projection(self._run_id)
            self._tail.offset = 0
        while True:
            before = self._tail.offset
            lines = self._tail.read(BATCH)
            if not lines:
                applied, self._applied = self._applied, []
                return applied
            records = [record for line in lines if (record := self._parsed(line.text, line.end_offset))]
            try:
                await self._store.apply_journal(self._run_id, records, lines[-1].end_offset)
            except BaseException:
                self._tail.offset = before
                raise
            self._applied += records

    def _parsed(self, text: str, end_offset: int) -> dict[str, Any] | None:
        try:
            return parse_line(text)
        except ValueError as refused:
            shown = json.dumps(text[:200])
            log.warning(
                "journal of run %s, line that ends at byte %d is refused: %s %s", self._run_id, end_offset, refused, shown
            )
            return None


class ServerLogTail:
    """Append the new lines of one attempt's server.log to the store, each once."""

    def __init__(self, store: Store, run_id: str, directory: RunDirectory, flower_run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._stream = stream_of(flower_run_id)
        self._tail = Tail(directory.server_log(flower_run_id))
        self._offset: int | None = None
        self._leveller = Leveller()

    async def catch_up(self) -> None:
        """Append all complete lines there are, blank ones aside. Raises DatabaseUnavailable, and then nothing was passed."""
        if self._offset is None:
            self._offset = self._tail.offset = await self._store.tail_offset(self._run_id, self._stream)
        while lines := self._tail.read(BATCH):
            rows = [self._leveller.row(line.text) for line in lines if line.text.strip()]
            # A file that somebody truncated is read from its beginning; the stored offset never goes back.
            end = max(self._offset, lines[-1].end_offset)
            try:
                answer = await self._store.append_log_lines(self._run_id, self._stream, self._offset, end, rows)
            except BaseException:
                self._tail.offset = self._offset
                raise
            self._offset = int(answer["offset"])
            if not answer["applied"]:
                self._tail.offset = self._offset
