"""A start that fails for a reason we know is told in one sentence, not in a traceback."""

import sys

from control_plane.errors import EspalierError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db.errors import DatabaseError


def telling(app: ASGIApp) -> ASGIApp:
    """Wrap an app: what our own errors say at startup is the message of its failure, also on stderr."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        failed: list[Message] = []

        async def held(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                failed.append(message)
            else:
                await send(message)

        try:
            await app(scope, receive, held)
        except (EspalierError, DatabaseError) as known:
            if failed:
                print(known, file=sys.stderr)
                failed = [{**failed[0], "message": str(known)}]
            raise
        finally:
            for message in failed:
                await send(message)

    return serve
