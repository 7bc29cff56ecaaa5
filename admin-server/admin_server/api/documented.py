"""The refusals of a route, as OpenAPI has them."""

from typing import Any

from control_plane.documented import refusals
from control_plane.errors import BodyTooLarge, EspalierError, Forbidden, Invalid, Malformed, Unauthorized

from admin_server.errors import DatabaseAway, DatabaseFull, DatabaseKeyRefused, DatabaseReadOnly, ReadOnly, SchemaUnfit

OF_THE_REQUEST = (Malformed, Unauthorized, Forbidden, Invalid, BodyTooLarge)
OF_THE_DATABASE = (DatabaseAway, DatabaseFull, DatabaseReadOnly, SchemaUnfit, DatabaseKeyRefused, ReadOnly)


def problems(*errors: type[EspalierError]) -> dict[int | str, dict[str, Any]]:
    """Document what a route raises, and what any may: a token, a query and a body can be wrong, the database away."""
    return refusals((*OF_THE_REQUEST, *OF_THE_DATABASE, *errors))
