"""Reports to the coordinator: written to the spool first, sent in order, deleted when the admin server has them."""

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client_server.backoff import Backoff
from client_server.coordinator import Coordinator
from client_server.errors import AdminRefused, AdminUnreachable
from client_server.patience import Patience
from client_server.spools import ReportSpool, empty_spool, open_spool, renumber

_log = logging.getLogger(__name__)

BATCH_LINES = 1000
BATCH_BYTES = 400_000
"""Half of what a server of ours takes by default; a single larger line goes alone."""

_UNREADABLE = (400, 413, 422)


class Reporter:
    """Sends what is reported, exactly once: a line keeps its number in the spool until the admin server has applied it."""

    def __init__(self, folder: Path, cap_bytes: int, coordinator: Coordinator, patience: Patience) -> None:
        self._cap_bytes = cap_bytes
        self._coordinator = coordinator
        self._retry = Backoff(patience.first_retry_s, patience.longest_retry_s)
        self._news = asyncio.Event()
        self._batch_lines = BATCH_LINES
        self._spool = open_spool(folder, cap_bytes)
        self._sent_to = waiting[0]["seq"] - 1 if (waiting := self._spool.pending(1)) else self._spool.last_seq

    @property
    def spool_id(self) -> str:
        """The name under which the lines are numbered."""
        return self._spool.id

    @property
    def last_seq(self) -> int:
        """The number of the newest line that was ever spooled, 0 for none."""
        return self._spool.last_seq

    @property
    def dropped(self) -> dict[str, int]:
        """How many lines of each kind gave way to the cap."""
        return self._spool.dropped

    def waiting(self, limit: int) -> list[dict[str, Any]]:
        """Give the oldest lines that the admin server has not applied yet."""
        return self._spool.pending(limit)

    def report(self, kind: str, data: Mapping[str, Any], *, droppable: bool = False) -> int:
        """Spool a line and have it sent; droppable: may give way when the spool is full."""
        seq = self._spool.append(kind, dict(data), droppable)
        self._news.set()
        return seq

    async def run(self) -> None:
        """Send for ever."""
        while True:
            self._news.clear()
            if not self._is_waiting:
                await self._news.wait()
            elif not await self._send():
                await asyncio.sleep(self._retry.next_s())

    async def flush(self, timeout_s: float) -> None:
        """Send what is there, for at most timeout_s and without a second try; the rest waits for our next start."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._is_waiting and await self._send():
                    pass
        except TimeoutError:
            _log.info("some reports wait for the next start")

    def start_over(self) -> None:
        """Drop what was meant for another coordinator, and begin a spool of a new id."""
        self._spool = empty_spool(self._spool, self._cap_bytes)
        self._sent_to = 0

    def close(self) -> None:
        """Let go of the spool's folder."""
        self._spool.close()

    @property
    def _is_waiting(self) -> bool:
        return self._sent_to < self._spool.last_seq

    async def _send(self) -> bool:
        """Send one batch; False when it should be tried again later."""
        line = await self._coordinator.line()
        spool = self._spool
        batch = _fitting(spool.pending(self._batch_lines))
        if not batch:
            return True
        try:
            applied = await line.admin.report(line.node_id, spool.id, batch)
        except AdminUnreachable as error:
            self._coordinator.failed(error)
            return False
        except AdminRefused as error:
            return self._refused(spool, batch, error)
        self._coordinator.worked()
        return self._applied(spool, batch, applied)

    def _applied(self, spool: ReportSpool, batch: list[dict[str, Any]], applied: int) -> bool:
        if spool is not self._spool:
            return True
        first, last = batch[0]["seq"], batch[-1]["seq"]
        if applied < first:
            if applied < first - 1:
                _log.error(
                    "the admin server has lines up to %d, we from %d on: was its database set back? Renumbering", applied, first
                )
                self._spool, self._sent_to = renumber(spool, self._cap_bytes), 0
            return False
        self._forget(spool, min(applied, last))
        self._retry.reset()
        self._batch_lines = min(BATCH_LINES, self._batch_lines * 2)
        return True

    def _refused(self, spool: ReportSpool, batch: list[dict[str, Any]], error: AdminRefused) -> bool:
        """Look for the line that the admin server cannot read: it must not hold up those behind it for ever."""
        self._coordinator.failed(error)
        if error.admin_status not in _UNREADABLE or spool is not self._spool:
            return False
        if len(batch) > 1:
            self._batch_lines = max(1, len(batch) // 2)
            return True
        _log.error("report %d (%s) was refused and is dropped: %s", batch[0]["seq"], batch[0]["kind"], error.detail)
        self._forget(spool, batch[0]["seq"])
        return True

    def _forget(self, spool: ReportSpool, seq: int) -> None:
        spool.acknowledge(seq)
        self._sent_to = seq


def _fitting(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    size_bytes = 0
    for count, line in enumerate(lines):
        size_bytes += len(json.dumps(line))
        if size_bytes > BATCH_BYTES and count:
            return lines[:count]
    return lines
