"""Nodes: enrolment by invitation, heartbeats, removal, and who is lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from control_plane.errors import EspalierError
from control_plane.tokens import new_token, sha256_of

from admin_server.database import Database
from admin_server.errors import NodeEnrolled, NodeNotFound, PublicKeyInvalid, SuperlinkNotRunning
from admin_server.flower import pem_of
from admin_server.ids import is_uuid
from admin_server.invitations import refusal
from admin_server.lost_nodes import SUPERLINK, LostNodes
from admin_server.schemas import Enrolment, Heartbeat
from admin_server.superlink import Superlink
from admin_server.superlink_plan import SuperlinkPlan
from admin_server.wanted import Wanted
from db.errors import InvitationRefused, NodeExists
from db.store import Store

log = logging.getLogger(__name__)
SILENT_S = 15.0
LOOK_S = 1.0
OFFLINE_LOOK_S = 5.0


class Nodes:
    """The nodes of this server's project."""

    def __init__(
        self, database: Database, project: dict[str, Any], superlink: Superlink, lost_nodes: LostNodes, wanted: Wanted
    ) -> None:
        self._database = database
        self._project = project
        self._superlink = superlink
        self._lost_nodes = lost_nodes
        self._wanted = wanted
        self._started_at = time.monotonic()
        self._listens = True

    @property
    def _store(self) -> Store:
        return self._database.store

    async def enrol(self, secret: str, request: Enrolment) -> dict[str, Any]:
        """Let a site in: its key is registered at the SuperLink, the invitation used, and its token made.

        Raises PublicKeyInvalid, SuperlinkNotRunning, SuperlinkUnreachable, NodeEnrolled, InvitationUnknown, -Used, -Expired.
        """
        made, key = self._superlink.plan, _pem(request.public_key)
        # A caller that hangs up must not leave half of it.
        return await asyncio.shield(asyncio.create_task(self._enrol(made, secret, request, key)))

    async def _enrol(self, made: SuperlinkPlan, secret: str, request: Enrolment, key: bytes) -> dict[str, Any]:
        token = new_token()
        with _refusals(request.external_id):
            await self._store.check_invitation(sha256_of(secret), request.external_id)
        flower_node_id = None if made.insecure else await self._superlink.flower.register_node(key, request.display_name)
        try:
            with _refusals(request.external_id):
                node = await self._store.redeem_invitation(
                    sha256_of(secret),
                    request.external_id,
                    request.display_name,
                    request.public_key,
                    flower_node_id,
                    sha256_of(token),
                )
        except BaseException:
            if flower_node_id is not None:
                await self._take_back(flower_node_id)
            raise
        self._wanted.restore(node["id"])
        ca = made.ca_pem
        return {
            "node_id": node["id"],
            "flower_node_id": flower_node_id,
            "node_token": token,
            "superlink_address": made.address_for(request.superlink_host),
            "ca_certificate": None if ca is None else ca.decode(),
            "project_slug": self._project["slug"],
            "insecure": made.insecure,
        }

    async def _take_back(self, flower_node_id: str) -> None:
        """Have the SuperLink forget a key that no node has."""
        try:
            await self._superlink.flower.unregister_node(flower_node_id)
        except EspalierError as refused:
            log.error("Flower node %s belongs to no site and stays registered at the SuperLink: %s", flower_node_id, refused)

    async def beat(self, node_id: str, beat: Heartbeat) -> int:
        """Take a heartbeat; give the number of the newest wish for this node."""
        row = await self._store.beat(node_id, beat.model_dump(mode="json"))
        flower_node_id = row["flower_node_id"]  # as enrolled: a site speaks for its own node alone
        if flower_node_id is not None:
            if beat.supernode_state == "running":
                self._lost_nodes.alive(flower_node_id, beat.session_id)
            elif beat.supernode_state is not None:
                self._lost_nodes.dead(flower_node_id, f"its SuperNode is {beat.supernode_state}")
        return self._wanted.seq(node_id, flower_node_id)

    async def remove(self, node_id: str) -> dict[str, Any]:
        """Take a node out for good: its tokens end, the SuperLink forgets its key's id. Raises NodeNotFound."""
        row = await self.one(node_id)
        removed = await self._store.remove_node(row["id"])
        if removed is None:
            raise NodeNotFound(f"Node {node_id} has been removed already.", node_id=node_id)
        self._wanted.remove(row["id"])
        if row["flower_node_id"] is not None:
            self._lost_nodes.dead(row["flower_node_id"], "it was removed from the project")
            try:
                await self._superlink.flower.unregister_node(row["flower_node_id"])
            except SuperlinkNotRunning:
                log.warning("node %s stays registered at the SuperLink, which is not running", row["flower_node_id"])
        return removed

    async def one(self, node_id: str) -> dict[str, Any]:
        """Find a node by its id or external id. Raises NodeNotFound."""
        key = "id" if is_uuid(node_id) else "external_id"
        rows = await self._store.rows("node_list", {"project_id": self._project["id"], key: node_id}, limit=1)
        if not rows:
            raise NodeNotFound(f"There is no node {node_id}.", node_id=node_id)
        return rows[0]

    def stop_marking(self) -> None:
        """Mark nobody any more: this server ends and does not listen, so silence says nothing."""
        self._listens = False

    async def mark_lost(self) -> None:
        """Mark who was silent for 15 s, unless it was we or the database who did not listen."""
        if not self._listens or min(time.monotonic() - self._started_at, self._database.up_s) < SILENT_S:
            return
        for row in await self._store.mark_lost_nodes(self._project["id"], SILENT_S):
            log.warning("node %s has been silent for %d s and is shown as lost", row["external_id"], SILENT_S)

    async def look_at_superlink(self) -> None:
        """Take a SuperNode for dead that the SuperLink has as offline."""
        removed = await self._store.rows("node_list", {"project_id": self._project["id"], "status": "removed"}, limit=1000)
        gone = {row["flower_node_id"] for row in removed}
        for node in await self._superlink.flower.nodes():
            if node.flower_node_id in gone and node.status != "unregistered":  # the SuperLink was away when it was removed
                await self._superlink.flower.unregister_node(node.flower_node_id)
            elif node.status == "offline":
                self._lost_nodes.dead(node.flower_node_id, "it is offline at the SuperLink", SUPERLINK)
            else:
                self._lost_nodes.alive(node.flower_node_id, said_by=SUPERLINK)


def _pem(public_key: str) -> bytes:
    try:
        return pem_of(public_key)
    except ValueError as refused:
        raise PublicKeyInvalid(str(refused)) from None


@contextmanager
def _refusals(external_id: str) -> Iterator[None]:
    """Turn what the database refuses of an enrolment into the problem to raise."""
    try:
        yield
    except InvitationRefused as refused:
        raise refusal(refused) from None
    except NodeExists:
        raise NodeEnrolled(f"{external_id} is enrolled already; remove it first.", external_id=external_id) from None
