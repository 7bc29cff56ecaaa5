"""Calls that end whole although their caller is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio

Answer = TypeVar("Answer")


class WholeCalls:
    """Calls over HTTP, each in a task of its own, which is cancelled by anyio's means where its caller is cancelled.

    httpcore (1.0.9) guards its closing of connections by anyio's shields. A task's own cancel() passes through them, and the
    sockets that were about to be closed stay open until they are collected.
    """

    def __init__(self) -> None:
        self._going: dict[asyncio.Task[Any], anyio.CancelScope] = {}

    async def make(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        """Make a call and give its answer, or raise its error."""
        scope = anyio.CancelScope()
        going = asyncio.create_task(_within(scope, call))
        self._going[going] = scope
        going.add_done_callback(self._over)
        try:
            return await asyncio.shield(going)
        except asyncio.CancelledError:
            scope.cancel()
            raise

    async def end(self) -> None:
        """Cancel those that go on, and wait until they are over; whoever waits for one is cancelled."""
        going = dict(self._going)
        for scope in going.values():
            scope.cancel()
        await asyncio.gather(*going, return_exceptions=True)

    def _over(self, call: asyncio.Task[Any]) -> None:
        del self._going[call]
        if not call.cancelled():
            call.exception()  # looked at, as its caller may have gone: else asyncio logs that nobody has


async def _within(scope: anyio.CancelScope, call: Coroutine[Any, Any, Answer]) -> Answer:
    with scope:
        return await call
    raise asyncio.CancelledError
