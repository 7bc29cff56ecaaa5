"""Work that is given up when an event says that it is no longer wanted."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def unless(halted: asyncio.Event, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Do the work, but cancel it when halted is set; None then."""
    doing, waiting = asyncio.ensure_future(work), asyncio.ensure_future(halted.wait())
    try:
        await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return await doing if doing.done() else None
    finally:
        for task in (doing, waiting):
            task.cancel()
        await asyncio.gather(doing, waiting, return_exceptions=True)


async def unless_ended(halted: asyncio.Event, work: Coroutine[Any, Any, Result], end: Callable[[], Awaitable[None]]) -> Result:
    """Do the work to its own end; when halted is set, `end` makes what it waits for end, again and again until it has."""
    doing, waiting = asyncio.ensure_future(work), asyncio.ensure_future(halted.wait())
    try:
        while not doing.done():
            await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                await end()
                await asyncio.wait({doing}, timeout=0.1)
        return await doing
    finally:
        for task in (doing, waiting):
            task.cancel()
