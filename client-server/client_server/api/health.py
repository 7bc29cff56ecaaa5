"""GET /health: that this server lives; with its token also how its SuperNode and its coordinator are."""

import os
from typing import Any

from control_plane.auth import bearer
from control_plane.errors import Unauthorized
from control_plane.tokens import same
from fastapi import APIRouter
from starlette.requests import Request

from client_server.api.documented import problems
from client_server.deps import SiteDep
from client_server.schemas import HealthAnswer
from client_server.site import VERSION

router = APIRouter(tags=["health"])


@router.get("/health", response_model_exclude_unset=True, responses=problems())
async def get_health(request: Request, site: SiteDep) -> HealthAnswer:
    """Say status and version to anybody; the rest to who has the token. A wrong token is refused, not ignored."""
    if "authorization" not in request.headers:
        return HealthAnswer(status="ok", version=VERSION)
    if not same(bearer(request), site.token):
        raise Unauthorized("This token is unknown.")
    return HealthAnswer(status="ok", version=VERSION, pid=os.getpid(), **_details(site))


def _details(site: SiteDep) -> dict[str, Any]:
    identity = site.identities.identity
    supernode = site.supernode.describe()
    return {
        "supernode": {key: supernode[key] for key in ("state", "pid", "session_id", "started_at", "reason")},
        "log_path": str(site.supernode.log_path),
        "node_id": identity.node_id if identity else None,
        "project_slug": identity.project_slug if identity else None,
        "enrolment": {"state": site.enrolment.state, "problem": site.enrolment.problem},
        "coordinator": {"state": site.coordinator.state, "problem": site.coordinator.problem},
        "spooled_lines_dropped": site.reporter.dropped,
    }
