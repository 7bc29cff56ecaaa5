"""Nodes, as the coordinator sees them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from admin_server.api.documented import problems
from admin_server.api.paging import page, paged
from admin_server.deps import (
    Admin,
    After,
    Invited,
    Limit,
    ServerState,
    TheAudit,
    TheInvitations,
    TheNodes,
    TheStore,
    WritingAdmin,
)
from admin_server.errors import (
    FlowerRefused,
    InvitationExpired,
    InvitationUnknown,
    InvitationUsed,
    NodeEnrolled,
    NodeNotFound,
    PublicKeyInvalid,
    SuperlinkNotRunning,
    SuperlinkUnreachable,
)
from admin_server.schemas import Enrolled, Enrolment, InvitationMade, InvitationRequest, Page, Row

NodeStatus = Literal["enrolled", "online", "offline", "lost", "removed"]
router = APIRouter(prefix="/nodes", tags=["nodes"])
ENROLS = (InvitationUnknown, InvitationUsed, InvitationExpired, NodeEnrolled, PublicKeyInvalid, FlowerRefused)


@router.post("/invitations", status_code=201, response_model=InvitationMade, responses=problems())
async def invite(
    admin: WritingAdmin,
    invitations: TheInvitations,
    audit: TheAudit,
    http: Request,
    request: InvitationRequest | None = None,
) -> dict[str, Any]:
    """Make a one-time invitation for a site that reaches this server at PUBLIC_URL, else at the address asked here."""
    wanted = request or InvitationRequest()
    made = await invitations.make(str(http.base_url).rstrip("/"), wanted.label, wanted.expires_in_s)
    await audit(admin, "node.invite", made["id"], label=wanted.label)
    return made


@router.get("/invitations", responses=problems())
async def invitations(admin: Admin, made: TheInvitations, after: After = None, limit: Limit = 100) -> Page:
    """List invitations, newest first; never their secrets."""
    return paged(await made.page(after, limit), limit)


@router.post(
    "/enrol",
    status_code=201,
    response_model=Enrolled,
    responses=problems(*ENROLS, SuperlinkNotRunning, SuperlinkUnreachable),
)
async def enrol(secret: Invited, nodes: TheNodes, request: Enrolment) -> dict[str, Any]:
    """Enrol the site that holds an invitation: its secret is the bearer token of this one request."""
    return await nodes.enrol(secret, request)


@router.get("", responses=problems())
async def every(
    admin: Admin,
    store: TheStore,
    state: ServerState,
    after: After = None,
    limit: Limit = 100,
    status: Annotated[list[NodeStatus] | None, Query()] = None,
) -> Page:
    """List the coordinator and all sites, removed ones too."""
    return await page(store, "node_list", {"project_id": state.project["id"], "status": status}, after, limit)


@router.get("/{node_id}", responses=problems(NodeNotFound))
async def one(admin: Admin, nodes: TheNodes, node_id: str) -> Row:
    """Show a node, by its id or its external id."""
    return await nodes.one(node_id)


@router.delete("/{node_id}", status_code=204, responses=problems(NodeNotFound, SuperlinkUnreachable, FlowerRefused))
async def remove(admin: WritingAdmin, nodes: TheNodes, audit: TheAudit, node_id: str) -> Response:
    """Take a node out: its token ends, and its key is never taken again."""
    removed = await nodes.remove(node_id)
    await audit(admin, "node.remove", removed["id"])
    return Response(status_code=204)


@router.get("/{node_id}/sessions", responses=problems(NodeNotFound))
async def sessions(admin: Admin, store: TheStore, nodes: TheNodes, node_id: str, after: After = None, limit: Limit = 100) -> Page:
    """List the lives of a node's SuperNode (the coordinator's: SuperLink), newest first."""
    return await page(store, "session_list", {"node_id": (await nodes.one(node_id))["id"]}, after, limit)


@router.get("/{node_id}/events", responses=problems(NodeNotFound))
async def events(admin: Admin, store: TheStore, nodes: TheNodes, node_id: str, after: After = None, limit: Limit = 100) -> Page:
    """List what happened to a node."""
    return await page(store, "event_list", {"node_id": (await nodes.one(node_id))["id"]}, after, limit)
