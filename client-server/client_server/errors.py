"""What a client server can refuse or fail at; control_plane.errors has the family.

Invalid                     422
├── InvitationRefused       422  invitation-refused
│   ├── InvitationUnknown   404  invitation-unknown
│   ├── InvitationUsed      409  invitation-used
│   └── InvitationExpired   410  invitation-expired
└── StartRequestRefused     422  supernode-start-refused
Conflict                    409
├── AlreadyEnrolled         409  already-enrolled
├── NotEnrolled             409  not-enrolled
├── NodeRemoved             409  node-removed
├── SuperNodeRunning        409  supernode-running
└── SuperNodeNotRunning     409  supernode-not-running
EspalierError
└── OutOfReach              424  out-of-reach
    ├── AdminUnreachable    424  admin-unreachable
    ├── AdminRefused        424  admin-refused
    └── SuperLinkUnreachable 424 superlink-unreachable
"""

from control_plane.errors import Conflict, EspalierError, Invalid


class InvitationRefused(Invalid):
    """The invitation does not let this site in."""

    title = "The invitation was refused"
    slug = "invitation-refused"


class InvitationUnknown(InvitationRefused):
    """The admin server does not know this invitation."""

    status = 404
    title = "The invitation is unknown"
    slug = "invitation-unknown"


class InvitationUsed(InvitationRefused):
    """The invitation was used before: each lets one site in, once."""

    status = 409
    title = "The invitation was used before"
    slug = "invitation-used"


class InvitationExpired(InvitationRefused):
    """The invitation's time is over; ask the coordinator for a new one."""

    status = 410
    title = "The invitation has expired"
    slug = "invitation-expired"


class StartRequestRefused(Invalid):
    """The start request asks for something that cannot be started."""

    title = "The SuperNode cannot be started like this"
    slug = "supernode-start-refused"


class AlreadyEnrolled(Conflict):
    """This site is enrolled already; its key and its Flower id stay."""

    title = "This site is enrolled already"
    slug = "already-enrolled"


class NotEnrolled(Conflict):
    """This site is not enrolled: send an invitation to POST /enrolment first."""

    title = "This site is not enrolled"
    slug = "not-enrolled"


class NodeRemoved(Conflict):
    """The coordinator removed this node; a new invitation lets it in again, with a new key."""

    title = "This node was removed by its coordinator"
    slug = "node-removed"


class SuperNodeRunning(Conflict):
    """The SuperNode runs already; stop it before it is started in another way."""

    title = "The SuperNode runs already"
    slug = "supernode-running"


class SuperNodeNotRunning(Conflict):
    """The SuperNode is not running."""

    title = "The SuperNode is not running"
    slug = "supernode-not-running"


class OutOfReach(EspalierError):
    """Another machine, which this action needs, could not be had."""

    status = 424
    title = "Out of reach"
    slug = "out-of-reach"


class AdminUnreachable(OutOfReach):
    """The admin server does not answer."""

    title = "The admin server is unreachable"
    slug = "admin-unreachable"


class AdminRefused(OutOfReach):
    """The admin server answered with an error; kind is the anchor of its problem's type."""

    title = "The admin server refused"
    slug = "admin-refused"

    def __init__(self, detail: str, *, admin_status: int, kind: str | None = None) -> None:
        super().__init__(detail, admin_status=admin_status)
        self.admin_status = admin_status
        self.kind = kind


class SuperLinkUnreachable(OutOfReach):
    """No SuperLink answers there, or not with a certificate that this site trusts."""

    title = "The SuperLink is unreachable"
    slug = "superlink-unreachable"
