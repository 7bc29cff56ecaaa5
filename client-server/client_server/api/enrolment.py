"""POST /enrolment: let this site in by an invitation."""

from fastapi import APIRouter

from client_server.api.documented import problems
from client_server.deps import SiteDep
from client_server.errors import (
    AdminRefused,
    AdminUnreachable,
    AlreadyEnrolled,
    InvitationExpired,
    InvitationRefused,
    InvitationUnknown,
    InvitationUsed,
)
from client_server.schemas import EnrolmentAnswer, EnrolmentRequest

router = APIRouter(tags=["enrolment"])
REFUSED = (
    InvitationRefused,
    InvitationUnknown,
    InvitationUsed,
    InvitationExpired,
    AlreadyEnrolled,
    AdminUnreachable,
    AdminRefused,
)


@router.post("/enrolment", status_code=201, responses=problems(*REFUSED))
async def post_enrolment(body: EnrolmentRequest, site: SiteDep) -> EnrolmentAnswer:
    """Redeem an invitation: the key is made here, the ids and the token are kept."""
    identity = await site.enrolment.enrol(body.invitation)
    return EnrolmentAnswer(node_id=identity.node_id, flower_node_id=identity.flower_node_id)
