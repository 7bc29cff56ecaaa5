"""Runs: start, stop, pause, list, one."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from admin_server.api.documented import problems
from admin_server.api.paging import page, paged
from admin_server.deps import Admin, After, Limit, ServerState, TheAudit, TheRuns, TheStore, WritingAdmin
from admin_server.errors import (
    ActiveRun,
    AppInvalid,
    AppNotFound,
    ArgumentRefused,
    FederationUnknown,
    FlowerRefused,
    InitialModelUnfit,
    NoActiveRun,
    RunChanged,
    RunConfigInvalid,
    RunEnded,
    RunNotFound,
    RunNotResumable,
    RunNotSteerable,
    RunsUnwritable,
    SuperlinkNotRunning,
    SuperlinkUnreachable,
)
from admin_server.schemas import Page, Row, RunAccepted, RunResume, RunStart, RunStop

RunStatus = Literal["pending", "starting", "running", "paused", "stopping", "completed", "failed", "stopped"]
router = APIRouter(prefix="/runs", tags=["runs"])
STARTS = (
    SuperlinkNotRunning,
    SuperlinkUnreachable,
    ActiveRun,
    AppNotFound,
    AppInvalid,
    RunConfigInvalid,
    InitialModelUnfit,
    ArgumentRefused,
    FederationUnknown,
)
RESUMES = (
    RunEnded,
    RunNotFound,
    RunNotSteerable,
    RunNotResumable,
    RunChanged,
    ActiveRun,
    SuperlinkNotRunning,
    SuperlinkUnreachable,
    FlowerRefused,
)


def accepted(run: dict[str, Any], response: Response, *, follow: bool = False) -> RunAccepted:
    location = f"/runs/{run['id']}"
    response.headers["Location"] = location
    live = f"{location}/logs?follow=true" if follow else None
    return RunAccepted(id=run["id"], status=run["status"], location=location, follow=live)


@router.post("/start", status_code=202, responses=problems(*STARTS, FlowerRefused, RunsUnwritable))
async def start(
    admin: WritingAdmin, runs: TheRuns, audit: TheAudit, response: Response, request: RunStart | None = None
) -> RunAccepted:
    """Check the app and its config, and start a run; one that was started by REST may be active at a time."""
    wanted = request or RunStart()
    run = await runs.start(wanted)
    await audit(admin, "run.start", run["id"], **wanted.model_dump())
    return accepted(run, response, follow=wanted.stream)


@router.post("/stop", status_code=202, responses=problems(NoActiveRun, RunEnded, RunNotFound))
async def stop_active(
    admin: WritingAdmin, runs: TheRuns, audit: TheAudit, response: Response, request: RunStop | None = None
) -> RunAccepted:
    """Stop the run that was started by REST, or the one that is named."""
    run = await runs.stop(request.run_id if request else None)
    await audit(admin, "run.stop", run["id"])
    return accepted(run, response)


@router.post("/{run_id}/stop", status_code=202, responses=problems(RunEnded, RunNotFound))
async def stop(admin: WritingAdmin, runs: TheRuns, audit: TheAudit, run_id: str, response: Response) -> RunAccepted:
    """Stop a run: its training loops end too."""
    run = await runs.stop(run_id)
    await audit(admin, "run.stop", run["id"])
    return accepted(run, response)


@router.post("/{run_id}/pause", status_code=202, responses=problems(RunEnded, RunNotFound, RunNotSteerable))
async def pause(admin: WritingAdmin, runs: TheRuns, audit: TheAudit, run_id: str, response: Response) -> RunAccepted:
    """Hold a run before its next round."""
    run = await runs.ask(run_id, "pause")
    await audit(admin, "run.pause", run["id"])
    return accepted(run, response)


@router.post("/{run_id}/resume", status_code=202, responses=problems(*RESUMES))
async def resume(
    admin: WritingAdmin,
    runs: TheRuns,
    audit: TheAudit,
    run_id: str,
    response: Response,
    request: RunResume | None = None,
) -> RunAccepted:
    """Let a paused run go on, or one that failed or was stopped: after its last committed round."""
    wanted = request or RunResume()
    run = await runs.resume(run_id, wanted.nodes)
    await audit(admin, "run.resume", run["id"], **wanted.model_dump())
    return accepted(run, response)


@router.get("/active", responses=problems())
async def active(admin: Admin, runs: TheRuns) -> Page:
    """List the runs that have not ended."""
    return Page(items=await runs.active(), next=None)


@router.get("", responses=problems())
async def every(
    admin: Admin,
    store: TheStore,
    state: ServerState,
    after: After = None,
    limit: Limit = 100,
    status: Annotated[list[RunStatus] | None, Query(description="Only runs of these statuses.")] = None,
    origin: Literal["rest", "shell"] | None = None,
) -> Page:
    """List runs, newest first."""
    where = {"project_id": state.project["id"], "status": status, "origin": origin}
    found = await page(store, "run_list", where, after, limit)
    return paged([state.runs.shown(row) for row in found.items], limit)


@router.get("/{run_id}", responses=problems(RunNotFound))
async def one(admin: Admin, runs: TheRuns, run_id: str) -> Row:
    """Show a run, by its id, a Flower run id or its series id, with its attempts, its cause and the number of its rows."""
    return await runs.with_attempts(run_id)
