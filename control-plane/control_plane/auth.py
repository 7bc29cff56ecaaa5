"""Who asks: a principal behind a bearer token, and the roles that a route serves."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request

from control_plane.errors import Forbidden, Unauthorized


@dataclass(frozen=True)
class Principal:
    """The holder of a valid token: role (admin, node, participant …) and subject, the id of whom it stands for."""

    role: str
    subject: str | None = None


Authenticate = Callable[[Request, str], Awaitable[Principal | None]]
"""Finds the principal of a token; create_app puts one into app.state.authenticate. None: no such token, or revoked."""


def bearer(request: Request) -> str:
    """Take the token out of the Authorization header.

    Raises Unauthorized when there is none, or it is of another scheme.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("Send the header 'Authorization: Bearer <token>'.")
    return token.strip()


async def principal_of(request: Request) -> Principal:
    """Find who asks, by app.state.authenticate; also kept in request.state.principal.

    Raises Unauthorized for no token and for one that is unknown or revoked.
    """
    token = bearer(request)
    authenticate: Authenticate = request.app.state.authenticate
    principal = await authenticate(request, token)
    if principal is None:
        raise Unauthorized("This token is unknown or revoked.")
    request.state.principal = principal
    return principal


def require(*roles: str) -> Callable[[Request], Awaitable[Principal]]:
    """Make the dependency of a route that serves these roles only: `Annotated[Principal, Depends(require("admin"))]`.

    It raises Unauthorized without a valid token and Forbidden for another role.
    """

    async def principal_with_role(request: Request) -> Principal:
        principal = await principal_of(request)
        if principal.role not in roles:
            raise Forbidden(f"This is for {' or '.join(roles)}; the token is of role {principal.role}.", role=principal.role)
        return principal

    return principal_with_role
