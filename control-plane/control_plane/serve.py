"""Serving an app: the port first, a clear word when it is taken, and an end within seconds."""

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

_log = logging.getLogger(__name__)


def serve(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    tls_certificate: Path | None = None,
    tls_key: Path | None = None,
    before_shutdown: Sequence[Callable[[], None]] = (),
) -> None:
    """Serve until TERM or INT, then end; returns after a clean end, for exit code 0.

    The port is bound before the lifespan begins: one that is in use is one sentence and exit code 2. A lifespan that fails to
    begin is exit code 3. port: 0 takes a free one, which the log says. before_shutdown: called in the event loop when the
    signal has come, to end streams and held-open answers (Broadcast.close): the lifespan's own end comes only after theirs,
    and what is still open after 3 s is cancelled.
    """
    listener = _bind(host, port)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=3,
        ssl_certfile=tls_certificate,
        ssl_keyfile=tls_key,
    )
    server = _Server(config, before_shutdown)
    scheme = "https" if tls_certificate else "http"
    at = listener.getsockname()
    _log.info("listening on %s://%s:%d", scheme, f"[{at[0]}]" if ":" in at[0] else at[0], at[1])
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
    if not server.started:
        raise SystemExit(3)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, before_shutdown: Sequence[Callable[[], None]]) -> None:
        super().__init__(config)
        self._before_shutdown = before_shutdown

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn raises the signal again after a clean end, which would make the exit code -15 instead of 0.
        with self.capture_signals():
            await self._serve(sockets)
            self._captured_signals.clear()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for end in self._before_shutdown:
            try:
                end()
            except Exception:
                _log.exception("%r failed before the shutdown", end)
        await asyncio.sleep(0)
        await super().shutdown(sockets)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        print(_sentence(host, port, error), file=sys.stderr)
        raise SystemExit(2) from None
    listener.setblocking(False)
    return listener


def _sentence(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use by another process: stop that one, or choose another port."
    return f"Cannot listen on {host}, port {port}: {error.strerror or error}."
