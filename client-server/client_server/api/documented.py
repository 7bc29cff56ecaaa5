"""The refusals of a route, as OpenAPI has them."""

from typing import Any

from control_plane.documented import refusals
from control_plane.errors import BodyTooLarge, EspalierError, Invalid, Malformed, Unauthorized


def problems(*errors: type[EspalierError]) -> dict[int | str, dict[str, Any]]:
    """Document what a route raises, and what any may: a token, a query and a body can be wrong."""
    return refusals((Malformed, Unauthorized, Invalid, BodyTooLarge, *errors))
