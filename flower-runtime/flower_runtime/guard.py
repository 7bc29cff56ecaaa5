"""What the public socket serves: the Fleet API and /health. SuperLink's other APIs have no login."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_REFUSAL = b'{"detail": "only the Fleet API is served on this port"}'


def is_public(path: str) -> bool:
    """May this path be asked for by anybody who reaches the public port?"""
    return path == "/health" or path.startswith("/v1/fleet/")


class FleetOnly:
    """Refuse all but the Fleet API, unless the request came in by the full port.

    The listening socket decides, not the peer's address: a proxy makes every peer look local.
    """

    def __init__(self, app: App, full_port: int) -> None:
        self._app = app
        self._full_port = full_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_full(scope) or (scope["type"] == "http" and is_public(scope["path"])):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_REFUSAL)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSAL})
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _is_full(self, scope: Scope) -> bool:
        server = scope.get("server")
        return server is not None and server[1] == self._full_port
