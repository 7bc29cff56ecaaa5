"""The SuperNode's log in pages and as a stream. A line's key is the offset behind it, in bytes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from control_plane.logfiles import Tail
from control_plane.sse import Event

from client_server.levels import without_colours
from client_server.schemas import LogLine, LogPage

LOOK_EVERY_S = 0.25


def read_log(path: Path, after: int, limit: int) -> LogPage:
    """Read a page; next is None where the log ends for now."""
    lines = Tail(path, after).read(limit)
    items = [LogLine(key=line.end_offset, text=without_colours(line.text)) for line in lines]
    return LogPage(items=items, next=items[-1].key if len(items) == limit else None)


async def follow_log(path: Path, after: int, leaving: asyncio.Event) -> AsyncIterator[Event]:
    """Give lines as they come, until this server leaves."""
    tail = Tail(path, after)
    while not leaving.is_set():
        lines = tail.read(200)
        for line in lines:
            yield Event("line", {"key": line.end_offset, "text": without_colours(line.text)}, str(line.end_offset))
        if not lines:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(leaving.wait(), LOOK_EVERY_S)
