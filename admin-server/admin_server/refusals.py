"""What the database says no to, as problems; and when to come back after a 503."""

from control_plane.errors import BadGateway, Conflict, EspalierError, Invalid, NotFound, Unavailable
from control_plane.problems import problem
from fastapi import FastAPI, Request
from starlette.responses import Response

from admin_server.errors import DatabaseAway, DatabaseFull, DatabaseKeyRefused, DatabaseReadOnly, SchemaUnfit
from db import errors as said
from db.errors import BadValue, DatabaseError, DatabaseUnavailable, NoSuchRow, Refused

RETRY_AFTER_S = 2
# What its own words say best, the operator's advice in them; any other unavailability may name hosts and users.
TELLING: dict[type[Exception], type[Unavailable]] = {
    said.DatabaseFull: DatabaseFull,
    said.DatabaseReadOnly: DatabaseReadOnly,
    said.SchemaMismatch: SchemaUnfit,
    said.MissingFunction: SchemaUnfit,  # between the change of a schema and our next look at it
    said.KeyRefused: DatabaseKeyRefused,
    said.ProjectPaused: DatabaseAway,
}


def install(app: FastAPI) -> None:
    """Answer the database's refusals with the family's, and every 503 with Retry-After."""
    app.add_exception_handler(DatabaseError, of_the_database)
    app.add_exception_handler(Unavailable, unavailable)


async def of_the_database(request: Request, error: Exception) -> Response:
    told = translated(error)
    return await unavailable(request, told) if isinstance(told, Unavailable) else problem(told, request.url.path)


async def unavailable(request: Request, error: Exception) -> Response:
    assert isinstance(error, Unavailable)
    response = problem(error, request.url.path)
    response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def translated(error: Exception) -> EspalierError:
    """Give the problem for what the database raised and no service caught."""
    if type(error) in TELLING:
        return TELLING[type(error)](str(error))
    if isinstance(error, DatabaseUnavailable):
        return DatabaseAway()
    if isinstance(error, NoSuchRow):
        return NotFound(str(error))
    if isinstance(error, BadValue):
        return Invalid(str(error))
    return Conflict(str(error)) if isinstance(error, Refused) else BadGateway(str(error))
