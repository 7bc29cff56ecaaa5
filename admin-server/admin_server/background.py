"""Work that goes on for as long as the server does: steps repeated, whatever one of them raises."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context

from control_plane.errors import EspalierError

from admin_server.errors import SuperlinkNotRunning, SuperlinkUnreachable
from db.errors import DatabaseUnavailable

log = logging.getLogger(__name__)
PAUSE_AFTER_FAILURE_S = 1.0
SAID_AT_MOST = 20  # failures of a step that names something else each time
DONE = object()
"""What a step returns when it is not to be repeated."""

Step = Callable[[], Awaitable[object]]


class Background:
    """A set of named loops that are ended together."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def repeat(self, name: str, step: Step, every_s: float) -> None:
        """Run a step again and again, every_s seconds apart, until it returns DONE."""
        # A context of its own: what it logs in an hour has nothing to do with the request that began it.
        self._keep(asyncio.create_task(self._forever(name, step, every_s), name=name, context=Context()))

    def once(self, name: str, work: Awaitable[object]) -> None:
        """Run something once, and log what it raises."""
        self._keep(asyncio.create_task(self._once(name, work), name=name))

    async def end(self) -> None:
        """Cancel all and wait until they are over."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _once(self, name: str, work: Awaitable[object]) -> None:
        try:
            await work
        except EspalierError as failed:
            log.error("%s: %s", name, failed)
        except Exception:
            log.exception("%s failed", name)

    async def _forever(self, name: str, step: Step, every_s: float) -> None:
        said: set[object] = set()  # since it last worked: a step that fails each second must not fill the log with it
        while True:
            try:
                if await step() is DONE:
                    return
                if said:
                    log.info("%s goes on", name)
                said.clear()
                await asyncio.sleep(every_s)
            except (DatabaseUnavailable, SuperlinkUnreachable, SuperlinkNotRunning) as away:
                if type(away) not in said:
                    log.warning("%s waits: %s", name, away)
                said.add(type(away))
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
            except Exception as failed:
                if repr(failed) not in said and len(said) < SAID_AT_MOST:
                    log.exception("%s failed and is tried again", name)
                    said.add(repr(failed))
                    if len(said) == SAID_AT_MOST:
                        log.error("%s failed in %d ways; more of them are not logged until it works again", name, SAID_AT_MOST)
                await asyncio.sleep(max(every_s, PAUSE_AFTER_FAILURE_S))
