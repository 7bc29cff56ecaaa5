"""What a run leaves behind: rounds, updates, metrics, events, logs, artifacts."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from admin_server.api.documented import problems
from admin_server.api.paging import page, stream
from admin_server.deps import Admin, After, LastEventId, Limit, TheFeed, TheRuns, TheStore
from admin_server.errors import RunNotFound
from admin_server.runs import Runs
from admin_server.schemas import Page

router = APIRouter(prefix="/runs/{run_id}", tags=["runs"])
Level = Literal["debug", "info", "warning", "error", "critical"]
UpdateStatus = Literal["sent", "counted", "refused", "failed", "lost", "late"]
Source = Literal["serverapp", "clientapp", "supernode", "superlink", "executor"]
Follow = Annotated[bool, Query(description="Server-sent events, from `after` or Last-Event-ID on, until the run has ended.")]
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "A page, or with follow=true a stream of its rows."}
}


@router.get("/rounds", responses=problems(RunNotFound))
async def rounds(
    admin: Admin,
    store: TheStore,
    runs: TheRuns,
    run_id: str,
    after: After = None,
    limit: Limit = 100,
    status: Literal["open", "closed", "failed"] | None = None,
) -> Page:
    """List the rounds, the open one too."""
    return await page(store, "round_list", {"run_id": await runs.id_of(run_id), "status": status}, after, limit)


@router.get("/updates", responses=problems(RunNotFound))
async def updates(
    admin: Admin,
    store: TheStore,
    runs: TheRuns,
    run_id: str,
    after: After = None,
    limit: Limit = 100,
    round: int | None = None,
    node_id: str | None = None,
    status: Annotated[list[UpdateStatus] | None, Query()] = None,
) -> Page:
    """List what became of each message to a node."""
    where = {"run_id": await runs.id_of(run_id), "round": round, "node_id": node_id, "status": status}
    return await page(store, "update_list", where, after, limit)


@router.get("/metrics", responses=problems(RunNotFound))
async def metrics(
    admin: Admin,
    store: TheStore,
    runs: TheRuns,
    run_id: str,
    after: After = None,
    limit: Limit = 100,
    round: int | None = None,
    name: str | None = None,
    scope: Literal["node", "clients", "server"] | None = None,
) -> Page:
    """List the numbers by round: of each node, their mean, the server's own."""
    where = {"run_id": await runs.id_of(run_id), "round": round, "name": name, "scope": scope}
    return await page(store, "metric_list", where, after, limit)


@router.get("/artifacts", responses=problems(RunNotFound))
async def artifacts(admin: Admin, store: TheStore, runs: TheRuns, run_id: str, after: After = None, limit: Limit = 100) -> Page:
    """List the files that the run kept; path is relative to the run's directory."""
    found = await page(store, "artifact_list", {"run_id": await runs.id_of(run_id)}, after, limit)
    return Page(items=[{**row, "path": row["uri"]} for row in found.items], next=found.next)


@router.get("/events", response_model=Page, responses={**problems(RunNotFound), **STREAM})
async def events(
    admin: Admin,
    store: TheStore,
    feed: TheFeed,
    runs: TheRuns,
    run_id: str,
    after: After = None,
    limit: Limit = 100,
    follow_up: Annotated[Follow, Query(alias="follow")] = False,
    last_event_id: LastEventId = None,
) -> Page | Response:
    """List what happened, or follow it."""
    where = {"run_id": await runs.id_of(run_id)}
    if not follow_up:
        return await page(store, "event_list", where, after, limit)
    begin = last_event_id or after or 0
    return await stream(store, feed, "event_list", where, begin, "event", ended(runs, where["run_id"]))


@router.get("/logs", response_model=Page, responses={**problems(RunNotFound), **STREAM})
async def logs(
    admin: Admin,
    store: TheStore,
    feed: TheFeed,
    runs: TheRuns,
    run_id: str,
    after: After = None,
    limit: Limit = 100,
    level: Annotated[list[Level] | None, Query()] = None,
    source: Annotated[list[Source] | None, Query()] = None,
    node_id: str | None = None,
    follow_up: Annotated[Follow, Query(alias="follow")] = False,
    last_event_id: LastEventId = None,
) -> Page | Response:
    """List the ServerApp's lines and what the sites forward, or follow them."""
    own_id = await runs.id_of(run_id)
    where = {"run_id": own_id, "level": level, "source": source, "node_id": node_id}
    if not follow_up:
        return await page(store, "log_list", where, after, limit)
    begin = last_event_id or after or 0
    return await stream(store, feed, "log_list", where, begin, "line", ended(runs, own_id))


def ended(runs: Runs, run_id: str) -> Callable[[], Awaitable[bool]]:
    """Ask whether a run has ended and all its files are read."""

    async def has_ended() -> bool:
        return await runs.is_over(run_id)

    return has_ended
