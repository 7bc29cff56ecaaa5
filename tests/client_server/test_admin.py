"""The line to the admin server, and what stays open when it is taken down."""

import asyncio
import gc

import pytest
from client_server.admin import AdminServer
from client_server.errors import AdminUnreachable

from tests.client_server.stand_ins import AdminStandIn

TURNS = 25
"""Of the event loop, within which a call here has connected and is answered."""


async def test_a_line_that_is_closed_while_calls_connect_leaves_no_socket(admin: AdminStandIn) -> None:
    for turns in range(TURNS):
        line = AdminServer(admin.address, "node-token-0", None)
        assert await line.heartbeat("node", {}) == admin.seq
        beats = [asyncio.create_task(line.heartbeat("node", {})) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await line.close()
        for answer in await asyncio.gather(*beats, return_exceptions=True):
            assert answer == admin.seq or isinstance(answer, AdminUnreachable)
    gc.collect()  # a socket that was lost warns here, and warnings are errors


async def test_a_call_on_a_closed_line_is_told_so(admin: AdminStandIn) -> None:
    line = AdminServer(admin.address, "node-token-0", None)
    await line.close()
    with pytest.raises(AdminUnreachable, match="does not answer: the line to it was closed"):
        await line.heartbeat("node", {})
