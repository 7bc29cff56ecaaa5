"""A SuperNode that lives but no longer talks.

After an error in its main loop stock Flower leaves a process that answers its own /health and does nothing more. What tells
it apart from one at work is that it has no connection to its SuperLink.
"""

import asyncio
from collections.abc import Awaitable, Callable

import psutil


async def until_silent(
    pid: int,
    superlink_port: int,
    superlink_answers: Callable[[], Awaitable[bool]],
    *,
    silence_s: float,
    look_every_s: float,
) -> None:
    """Return when the process had no connection to the SuperLink for silence_s, though that answered all the time."""
    clock = asyncio.get_running_loop().time
    talked = clock()
    while clock() - talked < silence_s:
        await asyncio.sleep(look_every_s)
        if is_connected(pid, superlink_port) or not await superlink_answers():
            talked = clock()


def is_connected(pid: int, remote_port: int) -> bool:
    """Say whether a process has a TCP connection, be it a half closed one, to this port; one that has ended, or that
    we may not look at, is not taken for silent.
    """
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return True
    return any(connection.raddr and connection.raddr.port == remote_port for connection in connections)
