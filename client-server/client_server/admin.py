"""The admin server as a site sees it: five calls, all begun from here."""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio
import httpx
from control_plane.settings import is_loopback
from pydantic import BaseModel, ValidationError

from client_server.errors import AdminRefused, AdminUnreachable

TIMEOUT_S = 10.0
ENROL_S = 60.0
"""An enrolment that is given up half-way has used up its invitation."""
HOLD_S = 40.0
"""How long GET …/wanted may take: the admin server holds it for up to 25 s."""


class Enrolled(BaseModel):
    """The answer to an enrolment."""

    node_id: str
    flower_node_id: str | None = None
    node_token: str
    superlink_address: str
    ca_certificate: str | None = None
    project_slug: str
    insecure: bool = False


class Wanted(BaseModel):
    """What the coordinator wants of this site now."""

    seq: int
    over_runs: list[str] = []
    cancelled_messages: list[str] = []
    removed: bool = False


class _Applied(BaseModel):
    applied_seq: int


class _Heard(BaseModel):
    wanted_seq: int


Answer = TypeVar("Answer", bound=BaseModel)


class AdminServer:
    """The admin server at one address, spoken to with one token.

    Every call raises AdminUnreachable when no answer comes and AdminRefused when the answer is an error or not what was agreed.
    """

    def __init__(self, address: str, token: str, ca_der: bytes | None) -> None:
        """ca_der: the only CA that is trusted for https; None: the machine's own."""
        self.address = address
        self._calls: dict[asyncio.Event, anyio.CancelScope] = {}
        """Those under way, by the event that each sets once it is over."""
        self._client = httpx.AsyncClient(
            base_url=address,
            headers={"Authorization": f"Bearer {token}"},
            verify=_trust(address, ca_der),
            timeout=TIMEOUT_S,
            # Proxy settings of the machine lead out of it; an admin server on loopback is never behind one.
            trust_env=not is_loopback(urlsplit(address).hostname or ""),
        )

    async def enrol(self, body: Mapping[str, Any]) -> Enrolled:
        """Redeem the invitation whose secret is the token."""
        return await self._ask(Enrolled, "POST", "/nodes/enrol", json=body, timeout=ENROL_S)

    async def heartbeat(self, node_id: str, body: Mapping[str, Any]) -> int:
        """Say that this client server lives, and how its SuperNode is; returns the seq of what is wanted now."""
        return (await self._ask(_Heard, "POST", f"/nodes/{node_id}/heartbeat", json=body)).wanted_seq

    async def report(self, node_id: str, spool_id: str, lines: Sequence[Mapping[str, Any]]) -> int:
        """Send lines of the spool; returns the highest seq up to which the admin server has them all."""
        answer = await self._ask(_Applied, "POST", f"/nodes/{node_id}/reports", json={"spool_id": spool_id, "lines": lines})
        return answer.applied_seq

    async def wanted(self, node_id: str, after: int) -> Wanted:
        """Wait until the coordinator wants something else than it did at `after`, or its patience (25 s) ends."""
        return await self._ask(Wanted, "GET", f"/nodes/{node_id}/wanted", params={"after": after}, timeout=HOLD_S)

    async def close(self) -> None:
        """End the calls under way and close the connections; an idle one would hold up a server that wants to stop."""
        calls = dict(self._calls)
        for scope in calls.values():
            scope.cancel()
        for over in calls:
            await over.wait()
        await self._client.aclose()

    async def _ask(self, kind: type[Answer], method: str, path: str, **request: Any) -> Answer:
        try:
            response = await self._respond(method, path, **request)
        except httpx.TransportError as error:
            raise AdminUnreachable(f"{self.address} does not answer: {_why(error)}.", address=self.address) from error
        if not response.is_success:
            raise _refused(response)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise AdminRefused(
                f"{self.address} answered {path} with something else than agreed: is it an admin server?",
                admin_status=response.status_code,
            ) from error

    async def _respond(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Call within a scope that close() can cancel: httpx (0.28) loses the socket of a call that is connecting then."""
        over = asyncio.Event()
        with anyio.CancelScope() as scope:
            self._calls[over] = scope
            try:
                if not self._client.is_closed:
                    return await self._client.request(method, path, **request)
            finally:
                del self._calls[over]
                over.set()
        raise httpx.TransportError("the line to it was closed")


def _trust(address: str, ca_der: bytes | None) -> ssl.SSLContext | bool:
    if not address.startswith("https:"):
        return False
    return ssl.create_default_context() if ca_der is None else ssl.create_default_context(cadata=ca_der)


def _refused(response: httpx.Response) -> AdminRefused:
    problem: dict[str, Any] = {}
    if "json" in response.headers.get("content-type", ""):
        body = response.json()
        problem = body if isinstance(body, dict) else {}
    detail = problem.get("detail") or problem.get("title") or response.reason_phrase
    kind = str(problem.get("type", "")).partition("#")[2]
    return AdminRefused(
        f"The admin server answered {response.status_code}: {detail}",
        admin_status=response.status_code,
        kind=kind or None,
    )


def _why(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__
