"""Enrolment: an invitation is turned into an identity, wholly or not at all."""

import asyncio
import base64
import logging
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from control_plane.errors import EspalierError
from control_plane.settings import is_loopback

from client_server.admin import AdminServer, Enrolled
from client_server.backoff import Backoff
from client_server.errors import (
    AdminRefused,
    AdminUnreachable,
    AlreadyEnrolled,
    InvitationExpired,
    InvitationRefused,
    InvitationUnknown,
    InvitationUsed,
)
from client_server.identity import Identity, IdentityStore, NodeKey
from client_server.invitation import Invitation, parse_invitation
from client_server.patience import Patience

_log = logging.getLogger(__name__)
_REFUSALS: dict[str, type[InvitationRefused | AlreadyEnrolled]] = {
    "invitation-unknown": InvitationUnknown,
    "invitation-used": InvitationUsed,
    "invitation-expired": InvitationExpired,
    "node-enrolled": AlreadyEnrolled,
}


class Enrolment:
    """Enrols this site, one invitation at a time."""

    def __init__(
        self,
        store: IdentityStore,
        external_id: str,
        display_name: str,
        when_enrolled: Callable[[], Coroutine[Any, Any, None]],
        patience: Patience,
    ) -> None:
        """when_enrolled: awaited after each enrolment, before the request that brought it is answered."""
        self._store = store
        self._external_id = external_id
        self._display_name = display_name
        self._when_enrolled = when_enrolled
        self._retry = Backoff(patience.first_retry_s, patience.longest_retry_s)
        self._lock = asyncio.Lock()
        self.problem: str | None = None

    @property
    def state(self) -> str:
        """Say enrolled, removed, refused (the invitation given at start), or none."""
        identity = self._store.identity
        if identity is not None:
            return "enrolled" if identity.removed_at is None else "removed"
        return "none" if self.problem is None else "refused"

    async def enrol(self, text: str) -> Identity:
        """Redeem an invitation and keep what it gives.

        Raises InvitationRefused or a kind of it, AlreadyEnrolled, AdminUnreachable, AdminRefused; nothing is changed then.
        """
        async with self._lock:
            known = self._store.identity
            if known is not None and known.removed_at is None:
                raise AlreadyEnrolled(
                    f"This site is node {known.node_id} of {known.admin_address} already; its key and its Flower id stay.",
                    node_id=known.node_id,
                )
            invitation = parse_invitation(text)
            # A removed node needs a new key: Flower never frees the old one.
            key = NodeKey()
            answer = await self._redeem(invitation, key)
            identity = Identity(
                node_id=answer.node_id,
                flower_node_id=answer.flower_node_id,
                external_id=self._external_id,
                display_name=self._display_name,
                admin_address=invitation.address,
                admin_ca=None if invitation.ca_der is None else base64.b64encode(invitation.ca_der).decode(),
                superlink_address=answer.superlink_address,
                project_slug=answer.project_slug,
                insecure=answer.insecure,
                enrolled_at=datetime.now(UTC),
            )
            self._store.keep(identity, key, answer.node_token, answer.ca_certificate)
            self.problem = None
            _log.info("enrolled", extra={"node_id": identity.node_id, "flower_node_id": identity.flower_node_id})
            await self._when_enrolled()
            return identity

    async def enrol_at_start(self, text: str) -> None:
        """Redeem the invitation that came with the settings; waits for an admin server that is away, says why it was refused."""
        while True:
            try:
                await self.enrol(text)
            except AlreadyEnrolled:
                return
            except AdminUnreachable as error:
                if self.problem is None:
                    _log.warning("waiting to enrol: %s", error.detail)
                self.problem = error.detail
                await asyncio.sleep(self._retry.next_s())
            except EspalierError as error:
                self.problem = error.detail
                _log.error("not enrolled: %s", error.detail)
                return
            else:
                return

    async def _redeem(self, invitation: Invitation, key: NodeKey) -> Enrolled:
        admin = AdminServer(invitation.address, invitation.secret, invitation.ca_der)
        try:
            return await admin.enrol(
                {
                    "external_id": self._external_id,
                    "display_name": self._display_name,
                    "public_key": key.public_line,
                    "superlink_host": _dialled_host(invitation),
                }
            )
        except AdminRefused as error:
            raise _refusal(error) from error
        finally:
            await admin.close()


def _dialled_host(invitation: Invitation) -> str | None:
    """Say by which name this site reaches its coordinator's machine; on the same machine that says nothing."""
    host = urlsplit(invitation.address).hostname or ""
    return None if is_loopback(host) else host


def _refusal(error: AdminRefused) -> EspalierError:
    """Translate the admin server's refusal; a 401 there is the invitation's fault, not that of our caller's token."""
    if error.admin_status == 401:
        return InvitationUnknown(error.detail)
    kind = _REFUSALS.get(error.kind or "")
    return error if kind is None else kind(error.detail)
