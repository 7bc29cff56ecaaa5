"""What this server refuses, each with its own anchor in docs/troubleshooting.md.

Conflict 409          SuperlinkNotRunning, SuperlinkUnreachable, SuperlinkActive, ActiveRun, NoActiveRun, RunChanged,
                      RunEnded, RunNotSteerable, RunNotResumable, NodeEnrolled, InvitationUsed, ArtifactDamaged
Invalid 422           AppInvalid, RunConfigInvalid, InitialModelUnfit, ArgumentRefused, FederationUnknown, AddressInvalid,
                      CertificatesInvalid, PublicKeyInvalid
NotFound 404          AppNotFound, RunNotFound, NodeNotFound, ProjectNotFound, ArtifactNotFound, ModelNotFound
Unauthorized 401      InvitationUnknown
Forbidden 403         OtherNode
Gone 410              InvitationExpired, ArtifactGone
RangeUnsatisfiable 416
BadGateway 502        FlowerRefused
Unavailable 503       DatabaseAway, DatabaseFull, DatabaseReadOnly, SchemaUnfit, DatabaseKeyRefused, ReadOnly, RunsUnwritable,
                      ArtifactStoreAway
"""

from control_plane.errors import (
    BadGateway,
    Conflict,
    EspalierError,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Unauthorized,
    Unavailable,
)


class SuperlinkNotRunning(Conflict):
    """The SuperLink is not running: start it with POST /superlink/start."""

    title = "SuperLink not running"
    slug = "superlink-not-running"


class SuperlinkUnreachable(Conflict):
    """The SuperLink's process is there and does not answer."""

    title = "SuperLink unreachable"
    slug = "superlink-unreachable"


class SuperlinkActive(Conflict):
    """The SuperLink is running already, or on its way up or down."""

    title = "SuperLink already active"
    slug = "superlink-active"


class ActiveRun(Conflict):
    """A run that was started by REST is still active in this project."""

    title = "A run is active"
    slug = "active-run"


class NoActiveRun(Conflict):
    """No run is active in this project."""

    title = "No run is active"
    slug = "no-active-run"


class RunChanged(Conflict):
    """The run changed while it was asked to stop."""

    title = "Run has changed"
    slug = "run-changed"


class RunEnded(Conflict):
    """The run has ended already, or is about to."""

    title = "Run has ended"
    slug = "run-ended"


class RunNotSteerable(Conflict):
    """The run's app writes no journal, and only one that does can be paused; stop works for every app."""

    title = "Run cannot be paused"
    slug = "run-not-steerable"


class RunNotResumable(Conflict):
    """The run has no committed round, or no journal, to go on from, or it has not ended."""

    title = "Run cannot go on"
    slug = "run-not-resumable"


class NodeEnrolled(Conflict):
    """A node with this external id is enrolled; remove it before it enrols with a new key."""

    title = "Node already enrolled"
    slug = "node-enrolled"


class InvitationUsed(Conflict):
    """The invitation has been used; ask the coordinator for a new one."""

    title = "Invitation used"
    slug = "invitation-used"


class InvitationExpired(Gone):
    """The invitation has expired; ask the coordinator for a new one."""

    title = "Invitation expired"
    slug = "invitation-expired"


class InvitationUnknown(Unauthorized):
    """There is no such invitation."""

    title = "Invitation unknown"
    slug = "invitation-unknown"


class OtherNode(Forbidden):
    """A node's token speaks for that node alone."""

    title = "Another node's token"
    slug = "other-node"


class AppInvalid(Invalid):
    """The app cannot be built into a FAB that runs."""

    title = "App invalid"
    slug = "app-invalid"


class AppNotFound(NotFound):
    """There is no such app below APPS_DIR and no such uploaded FAB."""

    title = "App not found"
    slug = "app-not-found"


class RunConfigInvalid(Invalid):
    """A run-config key or value does not fit what the app declares."""

    title = "Run config invalid"
    slug = "run-config-invalid"


class InitialModelUnfit(Invalid):
    """The artifact that the run was to start from cannot be used for that."""

    title = "Initial model unfit"
    slug = "initial-model-unfit"


class ArgumentRefused(Invalid):
    """An extra argument is not on the list of those that may be given."""

    title = "Extra argument refused"
    slug = "argument-refused"


class AddressInvalid(Invalid):
    """The listen address cannot be used."""

    title = "Listen address invalid"
    slug = "address-invalid"


class CertificatesInvalid(Invalid):
    """The certificates folder lacks a file, or one cannot be read."""

    title = "Certificates invalid"
    slug = "certificates-invalid"


class PublicKeyInvalid(Invalid):
    """The node's public key must be an OpenSSH line of an elliptic-curve key."""

    title = "Public key invalid"
    slug = "public-key-invalid"


class FederationUnknown(Invalid):
    """The SuperLink has no federation of this name."""

    title = "Federation unknown"
    slug = "federation-unknown"


class RunNotFound(NotFound):
    """There is no run with this id, Flower run id or series id."""

    title = "Run not found"
    slug = "run-not-found"


class NodeNotFound(NotFound):
    """There is no node with this id."""

    title = "Node not found"
    slug = "node-not-found"


class ProjectNotFound(NotFound):
    """There is no project with this slug or id."""

    title = "Project not found"
    slug = "project-not-found"


class ArtifactNotFound(NotFound):
    """There is no such artifact, or the run has kept none of that role."""

    title = "Artifact not found"
    slug = "artifact-not-found"


class ModelNotFound(NotFound):
    """There is no model of this version; or none was promoted yet, so that there is no latest one."""

    title = "Model not found"
    slug = "model-not-found"


class ArtifactGone(Gone):
    """The bytes are no more: retention removed them, or somebody did."""

    title = "Artifact gone"
    slug = "artifact-gone"


class ArtifactDamaged(Conflict):
    """The bytes that are stored are not those that were recorded: their sha256 differs."""

    title = "Artifact damaged"
    slug = "artifact-damaged"


class RangeUnsatisfiable(EspalierError):
    """The range begins behind the end of the model."""

    status = 416
    title = "Range not satisfiable"
    slug = "range-unsatisfiable"


class ArtifactStoreAway(Unavailable):
    """The artifact store cannot be reached, or does not take what it is given; code is its own."""

    title = "Artifact store away"
    slug = "artifact-store-away"


class FlowerRefused(BadGateway):
    """The SuperLink refused; code is Flower's own error code."""

    title = "Refused by the SuperLink"
    slug = "flower-refused"


class DatabaseAway(Unavailable):
    """The database cannot be reached; send the same request again."""

    title = "Database away"
    slug = "database-away"


class DatabaseFull(Unavailable):
    """The disk of the database is full, and nothing of this request was stored: make room there, and send it again."""

    title = "Database full"
    slug = "database-full"


class DatabaseReadOnly(Unavailable):
    """The database takes no writes, and nothing of this request was stored."""

    title = "Database read-only"
    slug = "database-read-only"


class SchemaUnfit(Unavailable):
    """The database's schema is not the one that this server was written for."""

    title = "Schema does not fit"
    slug = "schema-unfit"


class DatabaseKeyRefused(Unavailable):
    """Supabase does not take the key of this server."""

    title = "Database key refused"
    slug = "database-key-refused"


class RunsUnwritable(Unavailable):
    """The folder of run directories cannot be written to, so no ServerApp could be started."""

    title = "Run directories unwritable"
    slug = "runs-unwritable"


class ReadOnly(Unavailable):
    """Another admin server holds this project; this one only reads until that one has ended."""

    title = "Read-only"
    slug = "read-only"
