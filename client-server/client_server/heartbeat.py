"""The heartbeat: every 5 s the coordinator is told that this client server lives, and how its SuperNode is."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from client_server.coordinator import Coordinator
from client_server.errors import OutOfReach


async def beat_for_ever(coordinator: Coordinator, facts: Callable[[], dict[str, Any]], every_s: float) -> None:
    """Beat at once, and then each every_s from begin to begin; facts: what is said of the SuperNode."""
    clock = asyncio.get_running_loop().time
    while True:
        line = await coordinator.line()
        began = clock()
        try:
            await line.admin.heartbeat(
                line.node_id, {"reported_at": datetime.now(UTC).isoformat(timespec="milliseconds"), **facts()}
            )
        except OutOfReach as error:
            coordinator.failed(error)
        else:
            coordinator.worked()
        await asyncio.sleep(max(0.0, began + every_s - clock()))
