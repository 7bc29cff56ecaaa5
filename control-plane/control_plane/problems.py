"""Problems (skeleton; the signatures are final)."""

from collections.abc import Mapping

from fastapi import FastAPI


def install(app: FastAPI, *, body_limit_bytes: int = 1_048_576, body_limits: Mapping[str, int] | None = None) -> None:
    """Answer each failure as application/problem+json, give each request an id, refuse bodies that are too large.

    body_limits: other limits for paths that begin so, {"/apps": 64 MiB}.
    """
    raise NotImplementedError
