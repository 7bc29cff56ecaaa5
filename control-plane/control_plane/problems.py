"""Failures as application/problem+json (RFC 9457)."""

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from control_plane import requests
from control_plane.errors import EspalierError, Invalid, Malformed, family
from control_plane.logs import request_id

_log = logging.getLogger(__name__)

DOCS = "/docs/troubleshooting.md"
_MEMBERS = frozenset({"type", "title", "status", "detail", "instance", "request_id"})


def install(app: FastAPI, *, body_limit_bytes: int = 1_048_576, body_limits: Mapping[str, int] | None = None) -> None:
    """Answer each failure as a problem, give each request an id and a line in the log, refuse bodies that are too large.

    body_limits: other limits, in bytes, for paths that begin so: {"/apps": 64 MiB}. Call it before other middleware is added,
    so that an answer of theirs (CORS) goes around these.
    """
    app.add_exception_handler(EspalierError, _of_the_family)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_starlette)
    app.add_middleware(requests.BodyLimit, limit_bytes=body_limit_bytes, limits=dict(body_limits or {}), refuse=problem)
    app.add_middleware(requests.RequestLine, unexpected=_of_the_unexpected)


def problem(error: EspalierError, path: str) -> JSONResponse:
    """Write an error as a problem about a path; its facts become members beside the standard ones."""
    facts = {name: value for name, value in error.facts.items() if name not in _MEMBERS}
    response = _response(error.status, f"{DOCS}#{error.slug}", error.title, error.detail, path, facts)
    if error.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


async def _of_the_family(request: Request, error: Exception) -> Response:
    assert isinstance(error, EspalierError)
    if error.status >= 500:
        _log.error("%s: %s", type(error).__name__, error.detail, extra={"facts": error.facts}, exc_info=error.__cause__)
    return problem(error, request.url.path)


async def _of_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # The input itself is never sent back: it may hold a token.
    wrong = [{"at": ".".join(map(str, one["loc"])), "message": one["msg"]} for one in error.errors()]
    kind = Malformed if any(one["type"] == "json_invalid" for one in error.errors()) else Invalid
    return problem(kind("; ".join(f"{one['at']}: {one['message']}" for one in wrong), errors=wrong), request.url.path)


async def _of_starlette(request: Request, error: Exception) -> Response:
    """Answer for what the framework raises by itself: unknown path, wrong method, unreadable body."""
    assert isinstance(error, HTTPException)
    own = (kind for kind in family() if kind.__module__ == EspalierError.__module__)  # a server's kinds say more than a status
    ours = next((kind for kind in own if kind.status == error.status_code), None)
    phrase = HTTPStatus(error.status_code).phrase
    if ours is None:
        response = _response(error.status_code, "about:blank", phrase, error.detail, request.url.path, {})
    else:
        response = problem(ours(None if error.detail == phrase else error.detail), request.url.path)
    response.headers.update(error.headers or {})
    return response


def _of_the_unexpected(error: Exception, path: str) -> Response:
    _log.error("unexpected %s", type(error).__name__, exc_info=error)
    return problem(EspalierError("Something went wrong on the server; its log has the details under this request_id."), path)


class _Problem(JSONResponse):
    """JSON in ASCII: a fact may repeat what was sent, halves of surrogate pairs too, which no UTF-8 can hold."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


def _response(status: int, kind: str, title: str, detail: str, path: str, facts: Mapping[str, Any]) -> JSONResponse:
    content = {"type": kind, "title": title, "status": status, "detail": detail, "instance": path}
    return _Problem(
        jsonable_encoder({**content, "request_id": request_id.get(), **facts}),
        status_code=status,
        media_type="application/problem+json",
    )
