"""The rule of the public socket, asked without a server."""

from typing import Any

import pytest
from flower_runtime.guard import FleetOnly


async def _status(scope: dict[str, Any]) -> int | str:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(event: Any) -> None:
        sent.append(event)

    await FleetOnly(app, full_port=9092)(scope, receive, send)
    return int(sent[0]["status"]) if "status" in sent[0] else str(sent[0]["type"])


@pytest.mark.parametrize("path", ["/health", "/v1/fleet/pull-messages"])
async def test_the_public_port_serves_what_nodes_need(path: str) -> None:
    assert await _status({"type": "http", "path": path, "server": ("10.0.0.1", 9093)}) == 200


@pytest.mark.parametrize("path", ["/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/v1/fleet", "/healthy", "/"])
async def test_the_public_port_refuses_everything_else(path: str) -> None:
    assert await _status({"type": "http", "path": path, "server": ("10.0.0.1", 9093)}) == 403
    assert await _status({"type": "http", "path": path, "server": ("127.0.0.1", 9092)}) == 200


async def test_a_request_that_does_not_say_its_socket_is_public() -> None:
    assert await _status({"type": "http", "path": "/docs", "server": None}) == 403
    assert await _status({"type": "websocket", "path": "/v1/fleet/x", "server": ("10.0.0.1", 9093)}) == "websocket.close"
