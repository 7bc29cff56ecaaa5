"""Lists by keyset, and the same lists followed as server-sent events."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any

from control_plane.sse import Event, event_stream
from starlette.responses import Response

from admin_server.feed import ANY, Feed
from admin_server.schemas import Page
from db.errors import DatabaseUnavailable
from db.store import Store

FOLLOW_PAGE = 500
LOOK_S = 1.0  # a server that only reads hears no news of its own, so it looks
Rows = list[dict[str, Any]]


async def page(store: Store, view: str, where: dict[str, Any], after: int | None, limit: int) -> Page:
    """Read one page; a filter that is None is left out."""
    return paged(await store.rows(view, given(where), after, limit), limit)


def paged(rows: Rows, limit: int) -> Page:
    return Page(items=rows, next=rows[-1]["key"] if len(rows) == limit else None)


def given(where: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in where.items() if value is not None}


async def stream(
    store: Store, feed: Feed, view: str, where: dict[str, Any], after: int, kind: str, ended: Callable[[], Awaitable[bool]]
) -> Response:
    """Answer with what `follow` gives. Raises what reading raises before anything is answered, as for a wrong filter."""
    await store.rows(view, given(where), after, 1)
    return event_stream(follow(store, feed, view, where, after, kind, ended), encode=encoded)


async def follow(
    store: Store, feed: Feed, view: str, where: dict[str, Any], after: int, kind: str, ended: Callable[[], Awaitable[bool]]
) -> AsyncIterator[Event]:
    """Give the rows after a key, and then each new one, until `ended` says that no more can come; then an `end` event."""
    with feed.listening(where.get("run_id", ANY)) as news:
        while not feed.closed:
            try:
                is_last = await news.read("ended", ended)  # before the rows are read: what came before the end is then in them
                is_full = True
                while is_full:
                    read = partial(store.rows, view, given(where), after, FOLLOW_PAGE)
                    # The last rows are read for this follower alone: shared ones may be older than the end is.
                    rows = await (read() if is_last else news.read((view, repr(where), after), read))
                    for row in rows:
                        after = row["key"]
                        yield Event(kind, row, str(after))
                    is_full = len(rows) == FOLLOW_PAGE
            except DatabaseUnavailable:
                is_last = False
            if is_last:
                yield Event("end", {})
                return
            await news.wait(LOOK_S)


def encoded(value: Any) -> str:
    """Write JSON, times as RFC 3339."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=as_text)


def as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
