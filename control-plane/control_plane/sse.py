"""Server-sent events (skeleton; the signatures are final)."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from starlette.responses import StreamingResponse


@dataclass(frozen=True)
class Event:
    """What a stream sends: data is JSON; id is what comes back as Last-Event-ID."""

    event: str
    data: Any
    id: str | None = None


class Broadcast:
    """Hand each event to all who subscribed to its topic; a subscriber who lets `capacity` events wait is closed."""

    def __init__(self, capacity: int = 1000) -> None:
        raise NotImplementedError

    def publish(self, topic: str, event: Event) -> None:
        """Never waits; to be called in the event loop."""
        raise NotImplementedError

    def subscribe(self, topic: str) -> "Subscription":
        """Subscribe from now on: `async with broadcast.subscribe("run 7") as live: async for event in live`."""
        raise NotImplementedError

    def close(self) -> None:
        """End all subscriptions and all later ones: for serve(before_shutdown=[broadcast.close])."""
        raise NotImplementedError


class Subscription:
    """Async context manager and async iterator of Event; .fell_behind says that it was closed for being slow."""

    fell_behind: bool

    async def __aenter__(self) -> "Subscription":
        raise NotImplementedError

    async def __aexit__(self, *_: object) -> None:
        raise NotImplementedError

    def __aiter__(self) -> AsyncIterator[Event]:
        raise NotImplementedError


def event_stream(
    events: AsyncIterator[Event], *, ping_s: float = 15.0, encode: Callable[[Any], str] | None = None
) -> StreamingResponse:
    """Answer with a stream of events that ends with them; a comment each ping_s keeps it open and notices who left."""
    raise NotImplementedError
