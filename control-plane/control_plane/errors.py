"""The error family: every way in which a request or an action can fail.

EspalierError                  500  internal-error
├── Invalid                    422  invalid
│   └── Malformed              400  malformed
├── Unauthorized               401  unauthorized
├── Forbidden                  403  forbidden
├── NotFound                   404  not-found
├── MethodNotAllowed           405  method-not-allowed
├── Conflict                   409  conflict
│   ├── IllegalTransition      409  illegal-transition
│   └── SpoolInUse             409  spool-in-use
├── Gone                       410  gone
├── BodyTooLarge               413  body-too-large
├── BadGateway                 502  bad-gateway
│   ├── StartFailed            502  start-failed
│   └── StopFailed             502  stop-failed
└── Unavailable                503  unavailable

The servers add subclasses of their own, each with its own slug, which is its anchor in docs/troubleshooting.md.
"""

from collections.abc import Iterator
from typing import Any, ClassVar


class EspalierError(Exception):
    """Something went wrong on the server."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    slug: ClassVar[str] = "internal-error"

    def __init__(self, detail: str | None = None, /, **facts: Any) -> None:
        """Say what happened; without a detail the first line of the class's docstring is said.

        facts: JSON values that a program may want to read (run_id, state, last_lines); they become members of the problem.
        """
        self.detail = detail or (type(self).__doc__ or self.title).strip().splitlines()[0]
        self.facts = facts
        super().__init__(self.detail)


class Invalid(EspalierError):
    """The request is understood, but a value in it is not acceptable."""

    status = 422
    title = "Invalid request"
    slug = "invalid"


class Malformed(Invalid):
    """The request could not be read."""

    status = 400
    title = "Malformed request"
    slug = "malformed"


class Unauthorized(EspalierError):
    """A valid bearer token is needed."""

    status = 401
    title = "Not authenticated"
    slug = "unauthorized"


class Forbidden(EspalierError):
    """The token is valid, but not for this."""

    status = 403
    title = "Not allowed"
    slug = "forbidden"


class NotFound(EspalierError):
    """There is no such thing."""

    status = 404
    title = "Not found"
    slug = "not-found"


class MethodNotAllowed(EspalierError):
    """This address does not answer to that method."""

    status = 405
    title = "Method not allowed"
    slug = "method-not-allowed"


class Conflict(EspalierError):
    """The present state does not allow this."""

    status = 409
    title = "Conflict"
    slug = "conflict"


class IllegalTransition(Conflict):
    """The machine cannot go from its state to that one."""

    title = "Not possible in this state"
    slug = "illegal-transition"


class SpoolInUse(Conflict):
    """Another process writes this spool."""

    title = "Spool in use"
    slug = "spool-in-use"


class Gone(EspalierError):
    """It was here, and is no more."""

    status = 410
    title = "Gone"
    slug = "gone"


class BodyTooLarge(EspalierError):
    """The body of the request is larger than this address takes."""

    status = 413
    title = "Body too large"
    slug = "body-too-large"


class BadGateway(EspalierError):
    """Something that this server depends on failed."""

    status = 502
    title = "Failed behind this server"
    slug = "bad-gateway"


class StartFailed(BadGateway):
    """A process did not become ready; its last lines are in last_lines."""

    title = "Process did not start"
    slug = "start-failed"


class StopFailed(BadGateway):
    """A process is still there after SIGKILL."""

    title = "Process did not stop"
    slug = "stop-failed"


class Unavailable(EspalierError):
    """Something that this server needs is away at the moment; try again later."""

    status = 503
    title = "Unavailable"
    slug = "unavailable"


def family(root: type[EspalierError] = EspalierError) -> Iterator[type[EspalierError]]:
    """Yield an error class and all its subclasses that have been imported, parents first."""
    yield root
    for child in root.__subclasses__():
        yield from family(child)
