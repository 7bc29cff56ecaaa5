"""What happens in all runs and nodes of the project, as a list or as a stream."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from admin_server.api.documented import problems
from admin_server.api.paging import page, stream
from admin_server.api.run_records import STREAM, Follow
from admin_server.deps import Admin, After, LastEventId, Limit, ServerState, TheFeed, TheStore
from admin_server.schemas import Page

router = APIRouter(tags=["events"])


@router.get("/events", response_model=Page, responses={**problems(), **STREAM})
async def events(
    admin: Admin,
    store: TheStore,
    feed: TheFeed,
    state: ServerState,
    after: After = None,
    limit: Limit = 100,
    name: Annotated[list[str] | None, Query(description="Only events of these names.")] = None,
    follow_up: Annotated[Follow, Query(alias="follow")] = False,
    last_event_id: LastEventId = None,
) -> Page | Response:
    """List what happened, or follow it."""
    where = {"project_id": state.project["id"], "name": name}
    if not follow_up:
        return await page(store, "event_list", where, after, limit)
    return await stream(store, feed, "event_list", where, last_event_id or after or 0, "event", never)


async def never() -> bool:
    """A project has no end."""
    return False
