"""Invitations: one string that holds all a site needs to reach this server, trust it, and enrol once."""

import base64
import datetime as dt
import json
from typing import Any

from control_plane.errors import EspalierError
from control_plane.tokens import new_token, sha256_of

from admin_server import front, tls
from admin_server.errors import InvitationExpired, InvitationUnknown, InvitationUsed
from admin_server.settings import Settings
from db.errors import InvitationRefused
from db.store import Store

PREFIX = "espalier1."


class Invitations:
    """Make and look up the invitations of one project."""

    def __init__(self, store: Store, project_id: str, settings: Settings) -> None:
        self._store = store
        self._project_id = project_id
        self._settings = settings

    async def make(self, asked_at: str, label: str | None, expires_in_s: float) -> dict[str, Any]:
        """Make one for a site that reaches this server at PUBLIC_URL, or without one at the address asked_at."""
        secret = new_token()
        ca = front.ca(self._settings)
        der = None if ca is None else tls.der_of(ca)
        row = await self._store.create_invitation(self._project_id, sha256_of(secret), label, expires_in_s)
        told = written(self._settings.public_url or asked_at, der, secret, row["expires_at"])
        return {"invitation": told, "id": row["id"], "expires_at": row["expires_at"]}

    async def page(self, after: int | None, limit: int) -> list[dict[str, Any]]:
        return await self._store.rows("invitation_list", {"project_id": self._project_id}, after, limit)


def written(address: str, ca_der: bytes | None, secret: str, expires_at: dt.datetime) -> str:
    """Write the one string."""
    ca = None if ca_der is None else base64.b64encode(ca_der).decode()
    told = {"address": address, "ca": ca, "secret": secret, "expires_at": expires_at.isoformat()}
    return PREFIX + base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=")


REFUSALS: dict[str, type[EspalierError]] = {
    "unknown": InvitationUnknown,
    "used": InvitationUsed,
    "expired": InvitationExpired,
}


def refusal(refused: InvitationRefused) -> EspalierError:
    """Turn the database's refusal into the problem to raise."""
    return REFUSALS[refused.reason]()
