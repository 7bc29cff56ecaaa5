"""/supernode: start, stop, state and log of this site's SuperNode."""

from typing import Annotated, Any

from control_plane.sse import event_stream
from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from client_server.api.documented import problems
from client_server.deps import SiteDep
from client_server.errors import (
    NodeRemoved,
    NotEnrolled,
    StartRequestRefused,
    SuperLinkUnreachable,
    SuperNodeNotRunning,
    SuperNodeRunning,
)
from client_server.log_pages import follow_log, read_log
from client_server.schemas import Accepted, LogPage, MessageAtWork, SupernodeAnswer, SupernodeStartRequest

router = APIRouter(prefix="/supernode", tags=["supernode"])
STARTS = (SuperNodeRunning, NotEnrolled, NodeRemoved, StartRequestRefused, SuperLinkUnreachable)
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "A page, or with follow=true a stream of its lines."}
}


@router.post("/start", status_code=202, responses=problems(*STARTS))
async def post_start(site: SiteDep, response: Response, body: SupernodeStartRequest | None = None) -> Accepted:
    """Start the SuperNode; its state is to be polled at /supernode."""
    await site.supernode.start(body or SupernodeStartRequest())
    response.headers["Location"] = "/supernode"
    return Accepted(state=site.supernode.state)


@router.post("/stop", status_code=202, responses=problems(SuperNodeNotRunning))
async def post_stop(site: SiteDep, response: Response) -> Accepted:
    """Stop the SuperNode and its ClientApps; it is not started again by itself, not even after a restart of this server."""
    await site.supernode.stop()
    response.headers["Location"] = "/supernode"
    return Accepted(state=site.supernode.state)


@router.get("", responses=problems())
async def get_supernode(site: SiteDep) -> SupernodeAnswer:
    """Give the state of the SuperNode, and why it is so."""
    message = site.activity.message_at_work
    at_work = None if message is None else MessageAtWork(**message.model_dump(exclude={"offset"}))
    return SupernodeAnswer(**site.supernode.describe(), message_at_work=at_work)


@router.get("/logs", response_model=LogPage, responses={**problems(), **STREAM})
async def get_logs(
    site: SiteDep,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    follow: bool = False,
    last_event_id: Annotated[int | None, Header(ge=0)] = None,
) -> LogPage | Response:
    """Give a page of the SuperNode's log, by keys; or follow it (SSE, events `line`), going on after Last-Event-ID."""
    path = site.supernode.log_path
    if follow:
        return event_stream(follow_log(path, after if last_event_id is None else last_event_id, site.leaving))
    return read_log(path, after, limit)
