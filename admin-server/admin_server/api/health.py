"""GET /health: alive to anybody, the whole state to an admin."""

import os
from typing import Any

from fastapi import APIRouter

from admin_server.api.documented import problems
from admin_server.deps import MaybeAdmin, ServerState
from admin_server.schemas import Health
from admin_server.state import State
from admin_server.version import COMMIT, VERSION
from db.errors import DatabaseUnavailable

router = APIRouter(tags=["health"])


@router.get("/health", response_model=Health, response_model_exclude_unset=True, responses=problems())
async def health(admin: MaybeAdmin, state: ServerState) -> dict[str, Any]:
    """Say status and version; with an admin token also what runs."""
    status = "degraded" if state.database.problem else "ok"
    return {"status": status, "version": VERSION} | (await details(state) if admin else {})


async def details(state: State) -> dict[str, Any]:
    superlink = state.superlink.view()
    return {
        "superlink": superlink,
        "active_run": await active_run(state),
        "project_id": state.project["id"],
        "project_slug": state.project["slug"],
        "pid": os.getpid(),
        "log_path": superlink["log_path"],
        "started_at": state.started_at,
        "commit": COMMIT,
        "instance_id": state.instance_id,
        "database": "up" if state.database.is_up else "away",
        "database_problem": state.database.problem,
        "lease": {"held": state.lease.held, **state.lease.holder, **({"held": True} if state.lease.held else {})},
    }


async def active_run(state: State) -> dict[str, Any] | None:
    try:
        active = await state.runs.active()
    except DatabaseUnavailable:
        return None
    return active[0] if active else None
