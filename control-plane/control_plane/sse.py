"""Server-sent events: one publisher, many streams, none of which can hold the others up."""

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.responses import StreamingResponse

# Not splitlines(): U+2028 and its like are part of a line here, as they are in JSON.
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Event:
    """What a stream sends: data is JSON; id is what a client that comes back sends as Last-Event-ID."""

    event: str
    data: Any
    id: str | None = None


class Broadcast:
    """Hand each event to all who subscribed to its topic.

    A subscriber who lets more than `capacity` events wait is closed: it comes back with Last-Event-ID and reads what it
    missed from where events are stored.
    """

    def __init__(self, capacity: int = 1000) -> None:
        self._capacity = capacity
        self._subscriptions: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._is_closed = False

    def publish(self, topic: str, event: Event) -> None:
        """Hand an event on; never waits. To be called in the event loop."""
        for subscription in list(self._subscriptions.get(topic, ())):
            subscription.offer(event)

    def subscribe(self, topic: str) -> "Subscription":
        """Subscribe from now on.

        Subscribe first, then read what is stored, then go on with events that are newer than that: so none is missed.
        """
        subscription = Subscription(self._capacity, lambda: self._forget(topic, subscription))
        if self._is_closed:
            subscription.close()
        else:
            self._subscriptions[topic].add(subscription)
        return subscription

    def end(self, topic: str) -> None:
        """End the subscriptions of a topic after what they still have to read."""
        for subscription in list(self._subscriptions.get(topic, ())):
            subscription.close()

    def close(self) -> None:
        """End all subscriptions, and later ones at once: for serve(before_shutdown=[broadcast.close])."""
        self._is_closed = True
        for topic in list(self._subscriptions):
            self.end(topic)

    def count(self, topic: str) -> int:
        """Count the subscribers of a topic."""
        return len(self._subscriptions.get(topic, ()))

    def _forget(self, topic: str, subscription: "Subscription") -> None:
        self._subscriptions[topic].discard(subscription)
        if not self._subscriptions[topic]:
            del self._subscriptions[topic]


class Subscription:
    """The events of one subscriber, as an async iterator; leave it with `async with` or close()."""

    def __init__(self, capacity: int, forget: Callable[[], None]) -> None:
        self.fell_behind = False
        self._capacity = capacity
        self._forget = forget
        self._is_closed = False
        self._waiting: asyncio.Queue[Event | None] = asyncio.Queue()

    async def __aenter__(self) -> "Subscription":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Event:
        """Give the next event; the iteration ends with the subscription."""
        if self._is_closed and self._waiting.empty():
            raise StopAsyncIteration
        event = await self._waiting.get()
        if event is None:
            raise StopAsyncIteration
        return event

    def offer(self, event: Event) -> None:
        """Put an event into the queue; a queue that is full ends the subscription (fell_behind)."""
        if self._is_closed:
            return
        if self._waiting.qsize() >= self._capacity:
            self.fell_behind = True
            self.close()
            return
        self._waiting.put_nowait(event)

    async def aclose(self) -> None:
        """Close it, as an async generator is closed."""
        self.close()

    def close(self) -> None:
        """Take no more events; those in the queue can still be read."""
        if not self._is_closed:
            self._is_closed = True
            self._waiting.put_nowait(None)
            self._forget()


def event_stream(
    events: AsyncIterator[Event], *, ping_s: float = 15.0, encode: Callable[[Any], str] | None = None
) -> StreamingResponse:
    """Answer with a stream of events, which ends when they end.

    ping_s: a comment goes out after this silence, which keeps proxies from closing and lets us notice who has left.
    encode: makes JSON of data, for values that json.dumps does not know.
    """
    return StreamingResponse(
        _frames(events, ping_s, encode or _to_json),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _frames(events: AsyncIterator[Event], ping_s: float, encode: Callable[[Any], str]) -> AsyncIterator[str]:
    yield ": open\n\n"
    coming: asyncio.Task[Event | None] | None = None
    try:
        while True:
            coming = coming or asyncio.create_task(_next(events))
            done, _ = await asyncio.wait({coming}, timeout=ping_s)
            if not done:
                yield ": ping\n\n"
                continue
            event, coming = coming.result(), None
            if event is None:
                return
            yield frame(event, encode)
    finally:
        # When the client leaves, Starlette cancels this at each await, were it not shielded.
        with anyio.CancelScope(shield=True):
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
            if (close := getattr(events, "aclose", None)) is not None:
                await close()


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


def frame(event: Event, encode: Callable[[Any], str]) -> str:
    """Write an event as the lines of a stream; whatever is in id and event stays on their own lines."""
    head = "" if event.id is None else f"id: {_one_line(event.id)}\n"
    data = "".join(f"data: {line}\n" for line in _LINE_END.split(encode(event.data)))
    return f"{head}event: {_one_line(event.event)}\n{data}\n"


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
