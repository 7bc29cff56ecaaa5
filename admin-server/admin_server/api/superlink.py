"""The SuperLink: start, stop, look."""

from typing import Any

from control_plane.errors import Conflict
from fastapi import APIRouter

from admin_server.api.documented import problems
from admin_server.deps import Admin, TheAudit, TheRuns, TheSuperlink, WritingAdmin
from admin_server.errors import AddressInvalid, ArgumentRefused, CertificatesInvalid, SuperlinkActive, SuperlinkNotRunning
from admin_server.schemas import Accepted, SuperlinkStart, SuperlinkView

router = APIRouter(prefix="/superlink", tags=["superlink"])


@router.get("", response_model=SuperlinkView, responses=problems())
async def look(admin: Admin, superlink: TheSuperlink) -> dict[str, Any]:
    """Say how the SuperLink and its executor are."""
    return superlink.view()


@router.post(
    "/start",
    status_code=202,
    responses=problems(SuperlinkActive, AddressInvalid, CertificatesInvalid, ArgumentRefused),
)
async def start(admin: WritingAdmin, superlink: TheSuperlink, audit: TheAudit, request: SuperlinkStart | None = None) -> Accepted:
    """Begin to start the SuperLink and its executor; both are kept running from then on."""
    wanted = request or SuperlinkStart()
    await superlink.start(wanted)
    await audit(admin, "superlink.start", **wanted.model_dump())
    return Accepted(state=superlink.state, location="/superlink")


@router.post("/stop", status_code=202, responses=problems(SuperlinkNotRunning, Conflict))
async def stop(admin: WritingAdmin, superlink: TheSuperlink, runs: TheRuns, audit: TheAudit) -> Accepted:
    """Begin to stop it: active runs end first, then the executor, then the SuperLink."""
    await superlink.stop(runs.end_all)
    await audit(admin, "superlink.stop")
    return Accepted(state=superlink.state, location="/superlink")
