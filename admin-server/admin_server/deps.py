"""What endpoints ask for: the parts of the server, who asks, and where a page begins."""

from typing import Annotated

from control_plane.auth import Principal, principal_of, require
from control_plane.errors import Forbidden, Invalid
from fastapi import Depends, Header, Query, Request
from fastapi.dependencies.utils import get_flat_dependant

from admin_server.apps import Apps
from admin_server.audit import Audit
from admin_server.errors import OtherNode, ReadOnly
from admin_server.feed import Feed
from admin_server.invitations import Invitations
from admin_server.models import Models
from admin_server.nodes import Nodes
from admin_server.reports import Intake
from admin_server.runs import Runs
from admin_server.state import State
from admin_server.superlink import Superlink
from admin_server.wanted import Wanted
from db.store import Store


def state_of(request: Request) -> State:
    state: State = request.state.server
    return state


ServerState = Annotated[State, Depends(state_of)]
Admin = Annotated[Principal, Depends(require("admin"))]


async def only_known_query(request: Request) -> None:
    """Refuse a query parameter that the route does not have: a misspelt filter would answer with everything."""
    declared = {field.alias for field in get_flat_dependant(request.scope["route"].dependant).query_params}
    for name in request.query_params:
        if name not in declared:
            raise Invalid(f"This address has no query parameter {name!r}.", parameter=name, known=sorted(declared))


def hold(state: State) -> None:
    """Writes are for the holder of the lease. Raises ReadOnly."""
    if not state.lease.held:
        host = state.lease.holder.get("host", "another host")
        raise ReadOnly(f"The admin server on {host} holds this project; this one only reads.", host=host)


async def writing_admin(principal: Admin, state: ServerState) -> Principal:
    """An admin, at the server that may write."""
    hold(state)
    return principal


async def invited(principal: Annotated[Principal, Depends(require("invitation"))], state: ServerState) -> str:
    """The secret of an invitation, at the server that may write."""
    hold(state)
    return principal.subject or ""


async def own_node(node_id: str, principal: Annotated[Principal, Depends(require("node"))], state: ServerState) -> str:
    """The node whose token it is, and no other, at the server that may write."""
    if principal.subject != node_id:
        raise OtherNode(node_id=node_id)
    hold(state)
    return node_id


async def admin_or_nobody(request: Request) -> Principal | None:
    """For /health, which says more to an admin. A token that is wrong is refused all the same."""
    if "authorization" not in request.headers:
        return None
    principal = await principal_of(request)
    if principal.role != "admin":
        raise Forbidden(f"This is for admin; the token is of role {principal.role}.", role=principal.role)
    return principal


WritingAdmin = Annotated[Principal, Depends(writing_admin)]
Invited = Annotated[str, Depends(invited)]
OwnNode = Annotated[str, Depends(own_node)]
MaybeAdmin = Annotated[Principal | None, Depends(admin_or_nobody)]


def _store(state: ServerState) -> Store:
    return state.database.store


def _feed(state: ServerState) -> Feed:
    return state.feed


def _superlink(state: ServerState) -> Superlink:
    return state.superlink


def _apps(state: ServerState) -> Apps:
    return state.apps


def _audit(state: ServerState) -> Audit:
    return state.audit


def _runs(state: ServerState) -> Runs:
    return state.runs


def _nodes(state: ServerState) -> Nodes:
    return state.nodes


def _invitations(state: ServerState) -> Invitations:
    return state.invitations


def _intake(state: ServerState) -> Intake:
    return state.intake


def _models(state: ServerState) -> Models:
    return state.models


def _wanted(state: ServerState) -> Wanted:
    return state.wanted


TheStore = Annotated[Store, Depends(_store)]
TheFeed = Annotated[Feed, Depends(_feed)]
TheSuperlink = Annotated[Superlink, Depends(_superlink)]
TheApps = Annotated[Apps, Depends(_apps)]
TheAudit = Annotated[Audit, Depends(_audit)]
TheRuns = Annotated[Runs, Depends(_runs)]
TheNodes = Annotated[Nodes, Depends(_nodes)]
TheInvitations = Annotated[Invitations, Depends(_invitations)]
TheIntake = Annotated[Intake, Depends(_intake)]
TheModels = Annotated[Models, Depends(_models)]
TheWanted = Annotated[Wanted, Depends(_wanted)]

After = Annotated[int | None, Query(description="The `next` of the page before; without it the first page.")]
Limit = Annotated[int, Query(ge=1, le=1000)]
LastEventId = Annotated[int | None, Header(description="The id of the last event seen: the stream goes on after it.")]
