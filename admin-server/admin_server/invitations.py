"""Invitations: one string that holds all a site needs to reach this server, trust it, and enrol once."""

import base64
import datetime as dt
import json
from pathlib import Path
from typing import Any

from control_plane.errors import EspalierError
from control_plane.tokens import new_token, sha256_of

from admin_server import tls
from admin_server.errors import InvitationExpired, InvitationUnknown, InvitationUsed
from db.errors import InvitationRefused
from db.store import Store

PREFIX = "espalier1."


class Invitations:
    """Make and look up the invitations of one project."""

    def __init__(self, store: Store, project_id: str, tls_dir: Path) -> None:
        self._store = store
        self._project_id = project_id
        self._tls_dir = tls_dir

    async def make(self, address: str, ca: Path | None, label: str | None, expires_in_s: float) -> dict[str, Any]:
        """Make one for the site that reaches this server at `address`; ca: of a SuperLink with certificates of its own."""
        secret = new_token()
        row = await self._store.create_invitation(self._project_id, sha256_of(secret), label, expires_in_s)
        der = tls.der_of(ca or tls.ensure(self._tls_dir).ca)
        return {"invitation": written(address, der, secret, row["expires_at"]), "id": row["id"], "expires_at": row["expires_at"]}

    async def page(self, after: int | None, limit: int) -> list[dict[str, Any]]:
        return await self._store.rows("invitation_list", {"project_id": self._project_id}, after, limit)


def written(address: str, ca_der: bytes, secret: str, expires_at: dt.datetime) -> str:
    """Write the one string."""
    told = {"address": address, "ca": base64.b64encode(ca_der).decode(), "secret": secret, "expires_at": expires_at.isoformat()}
    return PREFIX + base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=")


REFUSALS: dict[str, type[EspalierError]] = {
    "unknown": InvitationUnknown,
    "used": InvitationUsed,
    "expired": InvitationExpired,
}


def refusal(refused: InvitationRefused) -> EspalierError:
    """Turn the database's refusal into the problem to raise."""
    return REFUSALS[refused.reason]()
