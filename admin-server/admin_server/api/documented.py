"""The refusals of a route, as OpenAPI has them."""

from typing import Any

from control_plane.errors import BodyTooLarge, EspalierError, Forbidden, Invalid, Unauthorized

from admin_server.errors import DatabaseAway, ReadOnly
from admin_server.schemas import Problem

ALWAYS: tuple[type[EspalierError], ...] = (Unauthorized, Forbidden, Invalid, BodyTooLarge, DatabaseAway, ReadOnly)
"""What any route may answer: whoever asks with a token, a query and a body can do it wrong, and the database may be away."""


def problems(*errors: type[EspalierError]) -> dict[int | str, dict[str, Any]]:
    """Document what a route raises: by status, each with its slugs."""
    by_status: dict[int, list[str]] = {}
    for error in (*ALWAYS, *errors):
        by_status.setdefault(error.status, []).append(f"{error.title} ({error.slug})")
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"model": Problem, "description": "; ".join(dict.fromkeys(told)), "content": content}
        for status, told in sorted(by_status.items())
    }
