"""Serving (skeleton; the signatures are final)."""

from collections.abc import Callable, Sequence
from pathlib import Path

from starlette.types import ASGIApp


def serve(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    tls_certificate: Path | None = None,
    tls_key: Path | None = None,
    before_shutdown: Sequence[Callable[[], None]] = (),
) -> None:
    """Serve until TERM or INT, then end in at most 3 s; returns after a clean end (exit code 0).

    A port in use is one sentence and exit code 2, before the lifespan begins. before_shutdown: called when the signal comes,
    to end streams and held-open answers (Broadcast.close), since the lifespan's own end comes after theirs.
    """
    raise NotImplementedError
