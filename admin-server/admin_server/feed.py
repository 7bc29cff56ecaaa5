"""Wake those who follow what happens, after each commit.

The holder of the lease is the only writer, so every write passes through the door below. Nothing but the wake-up is handed
over: a follower then reads the rows after the last key it has. Keys grow in the order of commit, so it misses none.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from admin_server.shared_reads import SharedReads
from db.door import Door, Row, Where

ANY = "*"
READS = frozenset({"schema_version", "find_token", "tail_offset", "hold_lease"})


class Feed:
    """Wake those who wait for news of a run, or of anything; everybody wakes for good when it is closed."""

    def __init__(self) -> None:
        self.closed = False
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._numbers = count()
        self._told: dict[str, int] = {}
        self._reads = SharedReads()

    def publish(self, topics: Iterable[str] = ()) -> None:
        """Say that rows of these runs were committed."""
        for topic in {ANY, *topics}:
            if topic in self._waiting:
                self._told[topic] = next(self._numbers)
                for event in self._waiting[topic]:
                    event.set()

    def close(self) -> None:
        """End all followers, now and later; called when the server is told to stop."""
        self.closed = True
        for events in self._waiting.values():
            for event in events:
                event.set()

    @contextmanager
    def listening(self, topic: str = ANY) -> Iterator["News"]:
        """Hear of a run's news, or of all, from now on."""
        event = asyncio.Event()
        self._waiting.setdefault(topic, set()).add(event)
        self._told.setdefault(topic, next(self._numbers))
        try:
            yield News(self, topic, event)
        finally:
            self._waiting[topic].discard(event)
            if not self._waiting[topic]:
                del self._waiting[topic], self._told[topic]

    async def read(self, topic: str, question: Hashable, read: Callable[[], Awaitable[Any]]) -> Any:
        """Read for all who ask this since the last news of the topic; to be called while listening to it."""
        return await self._reads.ask((topic, self._told[topic], question), read)


class News:
    """One listener's ear: what is published between two waits is not lost."""

    def __init__(self, feed: Feed, topic: str, event: asyncio.Event) -> None:
        self._feed = feed
        self._topic = topic
        self._event = event

    async def read(self, question: Hashable, read: Callable[[], Awaitable[Any]]) -> Any:
        """Read what was committed up to the last news; other listeners who ask the same share the answer."""
        return await self._feed.read(self._topic, question, read)

    async def wait(self, timeout_s: float) -> bool:
        """Wait for news; False when there is none in that time. Returns at once when the feed is closed."""
        if self._feed.closed:
            return False
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return not self._feed.closed


class AnnouncingDoor:
    """A door whose writes are announced to a feed after their commit."""

    def __init__(self, door: Door, feed: Feed) -> None:
        self.door = door
        self._feed = feed

    async def call(self, function: str, /, **args: Any) -> Any:
        """Call a SQL function."""
        answer = await self.door.call(function, **args)
        if function not in READS:
            self._feed.publish(runs_in(args, answer))
        return answer

    async def rows(self, view: str, where: Where | None = None, after: int | None = None, limit: int = 100) -> list[Row]:
        """Read a page of a view."""
        return await self.door.rows(view, where, after, limit)


def runs_in(args: dict[str, Any], answer: Any) -> set[str]:
    """Name the runs that a write was about: by its argument, and by the rows it gave back."""
    named = {args.get("p_run_id")}
    if isinstance(answer, dict):
        for row in [*answer.get("events", ()), *answer.get("lines", ())]:
            named.add(row.get("run_id"))
    return {run_id for run_id in named if isinstance(run_id, str)}
