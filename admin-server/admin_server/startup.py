"""A start that fails for a reason we know is told in one sentence, not in a traceback."""

import errno
import sys

from control_plane.errors import EspalierError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db.errors import DatabaseError

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Telling:
    """Wrap an app: what is known of a failed start is its message, also on stderr, and has_told is true from then on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.has_told = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        failed: list[Message] = []

        async def held(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                failed.append(message)
            else:
                await send(message)

        try:
            await self._app(scope, receive, held)
        except (EspalierError, DatabaseError, OSError) as known:
            if failed and (said := sentence(known)) is not None:
                print(said, file=sys.stderr)
                failed = [{**failed[0], "message": said}]
                self.has_told = True
            raise
        finally:
            for message in failed:
                await send(message)


def sentence(error: Exception) -> str | None:
    """Say in one sentence what an operator can mend; None for what only a traceback can tell."""
    if not isinstance(error, OSError):
        return str(error)
    if error.errno in _OF_THE_DISK:
        return f"{error.filename or 'ESPALIER_HOME'} cannot be written ({error.strerror}): make room there, or make it writable."
    return None
