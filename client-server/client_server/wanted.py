"""The way back from the coordinator: a request that it holds open, whose answer says what it no longer wants of this site."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from control_plane.files import write_json

from client_server.backoff import Backoff
from client_server.coordinator import Coordinator
from client_server.errors import AdminRefused, OutOfReach
from client_server.patience import Patience

UNAUTHORIZED = "unauthorized"
REFUSALS_BELIEVED = 3
"""A node that was removed while it did not listen finds its token revoked, and nothing else tells it so."""


async def watch_wanted(
    coordinator: Coordinator, path: Path, when_removed: Callable[[], Awaitable[None]], patience: Patience
) -> None:
    """Ask for ever; what is wanted goes to path, where the SuperNode's launcher reads it.

    when_removed: awaited when the coordinator removed this node, or did not know its token REFUSALS_BELIEVED times in a row; it
    closes the line, which ends the asking until a new enrolment.
    """
    retry = Backoff(patience.first_retry_s, patience.longest_retry_s)
    after, asked, refusals = 0, None, 0
    while True:
        line = await coordinator.line()
        if line is not asked:
            after, asked, refusals = 0, line, 0
        try:
            wanted = await line.admin.wanted(line.node_id, after)
        except OutOfReach as error:
            coordinator.failed(error)
            refusals = refusals + 1 if isinstance(error, AdminRefused) and error.kind == UNAUTHORIZED else 0
            if refusals >= REFUSALS_BELIEVED:
                await when_removed()
            else:
                await asyncio.sleep(retry.next_s())
            continue
        coordinator.worked()
        retry.reset()
        refusals = 0
        if wanted.removed:
            await when_removed()
            continue
        if wanted.seq != after:
            write_json(path, wanted.model_dump(include={"seq", "over_runs", "cancelled_messages"}))
            after = wanted.seq
