"""What happens to each request before a route sees it: an id, a line in the log, a limit to its body."""

import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.errors import BodyTooLarge, EspalierError, Malformed
from control_plane.logs import request_id

_log = logging.getLogger(__name__)
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestLine:
    """Give each request an id (X-Request-ID, the client's own if it is a sane one), and log it when it has been answered.

    An exception that no handler took is answered by `unexpected(error, path)`.
    """

    def __init__(self, app: ASGIApp, unexpected: Callable[[Exception, str], Response]) -> None:
        self._app = app
        self._unexpected = unexpected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered = Headers(scope=scope).get("x-request-id", "")
        mine = offered if _ID.fullmatch(offered) else uuid.uuid4().hex
        token = request_id.set(mine)
        began = time.monotonic()
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = mine
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if status is not None:
                raise
            await self._unexpected(error, scope["path"])(scope, receive, send_with_id)
        finally:
            level = logging.DEBUG if scope["path"] == "/health" else logging.INFO
            ms = round((time.monotonic() - began) * 1000, 1)
            _log.log(level, "%s %s", scope["method"], scope["path"], extra={"status": status, "ms": ms})
            request_id.reset(token)


class BodyLimit:
    """Refuse a body that is larger than the limit: by its Content-Length unread, a chunked one as soon as it passes it.

    Nothing is buffered here, and the app never gets more than the limit. refuse(error, path) writes the answer.
    """

    def __init__(
        self, app: ASGIApp, limit_bytes: int, limits: Mapping[str, int], refuse: Callable[[EspalierError, str], Response]
    ) -> None:
        self._app = app
        self._limit_bytes = limit_bytes
        self._limits = sorted(limits.items(), key=lambda item: -len(item[0]))
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        limit = next((bytes_ for prefix, bytes_ in self._limits if path.startswith(prefix)), self._limit_bytes)
        too_large = BodyTooLarge(f"The body may have {limit} bytes at most.", limit_bytes=limit)
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isascii() or not declared.isdigit():
            await self._answer(Malformed("Content-Length is not a number."), scope, receive, send)
            return
        if int(declared) > limit:
            await self._answer(too_large, scope, receive, send)
            return
        taken = 0
        is_refused = has_begun = False

        async def receive_within_limit() -> Message:
            nonlocal taken, is_refused
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                is_refused = True
                raise too_large
            return message

        async def send_unless_refused(message: Message) -> None:
            nonlocal has_begun
            # FastAPI makes a 400 of whatever is raised while it reads a body: ours is the answer.
            if is_refused and not has_begun:
                return
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive_within_limit, send_unless_refused)
        except BodyTooLarge:
            if not is_refused or has_begun:
                raise
        if is_refused and not has_begun:
            await self._answer(too_large, scope, receive, send)

    async def _answer(self, error: EspalierError, scope: Scope, receive: Receive, send: Send) -> None:
        response = self._refuse(error, scope["path"])
        response.headers["Connection"] = "close"
        await response(scope, receive, send)
