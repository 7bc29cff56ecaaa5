"""Calls that are cut by nobody who waits for them."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class WholeCalls:
    """Calls over HTTP, each in a task of its own: a caller who is cancelled leaves, and the call ends by itself.

    httpcore (1.0.9) protects its closing of connections by anyio's shield, through which a task's own cancel() passes: the
    sockets that it was about to close then stay open until they are collected.
    """

    def __init__(self) -> None:
        self._going: set[asyncio.Task[Any]] = set()

    async def make(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        """Make a call and give its answer, or raise its error."""
        going = asyncio.create_task(call)
        self._going.add(going)
        going.add_done_callback(self._going.discard)
        return await asyncio.shield(going)

    async def end(self, within_s: float) -> None:
        """Wait for those that go on, and cancel what takes longer."""
        if self._going:
            _, late = await asyncio.wait(self._going, timeout=within_s)
            for call in late:
                call.cancel()
            await asyncio.gather(*late, return_exceptions=True)
