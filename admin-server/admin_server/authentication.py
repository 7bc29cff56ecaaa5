"""Whose token it is: the admin's file, a hash in the database, or an invitation's secret."""

from pathlib import Path

from control_plane.auth import Principal
from control_plane.tokens import read_or_create, same, sha256_of
from starlette.requests import Request

from admin_server.database import Database

ENROL = "/nodes/enrol"


class Authentication:
    """Find the principal of a bearer token."""

    def __init__(self, home: Path, database: Database) -> None:
        self._admin = sha256_of(read_or_create(home / "admin.token"))
        self._database = database

    async def __call__(self, request: Request, token: str) -> Principal | None:
        sha256 = sha256_of(token)
        if same(sha256, self._admin):
            return Principal("admin", "admin")
        known = await self._database.store.find_token(sha256)
        if known is not None:
            return Principal(known["role"], known["subject"])
        # An invitation's secret opens this one address; whether it is good is said as it is redeemed.
        return Principal("invitation", token) if request.url.path == ENROL else None
