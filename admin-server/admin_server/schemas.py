"""The bodies of the REST API. What is not declared here is refused."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
FlowerId = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,20}$")]
Why = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=2000),
    Field(description="In a sentence, for those who ask later."),
]
Row = dict[str, Any]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Page(BaseModel):
    """A page of a list in the order of `key`; `next` is the `after` of the next page, null at the end."""

    items: list[Row]
    next: int | None


class Health(BaseModel):
    status: Literal["ok", "degraded"]
    version: str
    superlink: Row | None = Field(default=None, description="With an admin token: state, pid, address, log path, start time.")
    active_run: Row | None = None
    project_id: str | None = None
    project_slug: str | None = None
    pid: int | None = None
    log_path: str | None = None
    started_at: datetime | None = None
    commit: str | None = None
    instance_id: str | None = None
    database: str | None = Field(default=None, description="up or away")
    database_problem: str | None = Field(default=None, description="Why it is away, or took no writes in the last 30 s.")
    lease: Row | None = Field(default=None, description="held, host, lease_until")


class SuperlinkStart(Body):
    insecure: bool = Field(default=False, description="No TLS and no node keys; for this machine only.")
    certificates_path: str | None = Field(
        default=None, description="Folder with ca.crt, server.crt and server.key instead of our own."
    )
    listen_address: str | None = Field(
        default=None, max_length=300, description="HOST or HOST:PORT of a second socket for sites."
    )
    extra_args: list[str] = Field(default_factory=list, max_length=32, description="Flags of flower-superlink, of a short list.")


class ProcessView(BaseModel):
    state: str
    pid: int | None
    started_at: datetime | None
    reason: str | None
    last_lines: list[str]


class SuperlinkView(ProcessView):
    address: str | None = Field(description="Where this machine reaches all of Flower's APIs.")
    public_address: str | None = Field(description="Where sites reach the Fleet API; null: only from this machine.")
    insecure: bool | None = Field(description="True: without TLS and node keys, so on loopback only.")
    session_id: str | None
    log_path: str
    executor: ProcessView


class Accepted(BaseModel):
    """A long action has begun; poll location."""

    state: str
    location: str


class InvitationRequest(Body):
    label: Name | None = None
    expires_in_s: int = Field(default=86_400, ge=60, le=2_592_000)


class InvitationMade(BaseModel):
    invitation: str = Field(description="The one string to hand over; it is shown only now.")
    id: str
    expires_at: datetime


class Enrolment(Body):
    external_id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="The site's own name for its node: letters, digits, . _ -"
    )
    display_name: Name
    public_key: str = Field(max_length=1000, description="OpenSSH line of the node's elliptic-curve key.")
    superlink_host: str | None = Field(
        default=None, max_length=253, pattern=r"^[^\s/@]+$", description="The host that the site dials."
    )


class Enrolled(BaseModel):
    node_id: str
    flower_node_id: str | None = Field(description="Null at an insecure SuperLink: the SuperNode gets its id as it starts.")
    node_token: str
    superlink_address: str
    ca_certificate: str | None
    project_slug: str
    insecure: bool


class Heartbeat(Body):
    reported_at: AwareDatetime
    supernode_state: Literal["starting", "running", "stopping", "stopped", "exited", "failed", "lost"] | None
    session_id: str | None = None
    flower_node_id: FlowerId | None = None


class HeartbeatAnswer(BaseModel):
    wanted_seq: int


class Reports(Body):
    spool_id: str = Field(min_length=1, max_length=200)
    lines: list[Any] = Field(max_length=1000, description="{seq, kind, at, data}; a malformed one is refused and acknowledged.")


class ReportsAnswer(BaseModel):
    applied_seq: int


class Wanted(BaseModel):
    seq: int
    over_runs: list[str]
    cancelled_messages: list[str]
    removed: bool


class AppUploaded(BaseModel):
    app: str
    fab_hash: str


class AppConfig(BaseModel):
    app: str
    fab_hash: str
    fab_id: str
    version: str
    config: dict[str, str | int | float | bool] = Field(description="Every run-config key of the app, with its default.")


class RunStart(Body):
    app: str = Field(
        default="flower-app", min_length=1, max_length=300, description="Folder below APPS_DIR, or the sha256 of a FAB."
    )
    run_config: dict[str, Any] = Field(default_factory=dict)
    initial_model: str | None = Field(
        default=None, max_length=36, description="Where the first round starts: a model's version, `latest`, or an artifact's id."
    )
    label: Name | None = None
    stream: bool = Field(default=False, description="Put the address of the live log into the answer.")
    federation_name: Name | None = Field(default=None, description="A federation of the SuperLink, or our connection's name.")
    extra_args: list[str] = Field(default_factory=list, max_length=32, description="--run-config 'key=value …' only.")


class RunStop(Body):
    run_id: str | None = Field(default=None, max_length=36, description="Any id of a run; without it the active one.")


class ModelPromotion(Body):
    artifact_id: UUID | None = Field(default=None, description="Which artifact; or a run_id.")
    run_id: str | None = Field(
        default=None, max_length=36, description="Any id of a run, of which the newest model of the role is taken."
    )
    role: Literal["final", "best"] = Field(default="final", description="With run_id.")
    why: Why

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.artifact_id is None) == (self.run_id is None):
            raise ValueError("give artifact_id or run_id, one of them")
        if self.run_id is None and "role" in self.model_fields_set:
            raise ValueError("role goes with run_id: an artifact_id says it all")
        return self


class Promotion(Body):
    why: Why


class RunResume(Body):
    nodes: Literal["same", "any"] | None = Field(
        default=None,
        description="For a run that has ended: wait for the nodes of its last round (same, the default), or take any.",
    )


class RunAccepted(BaseModel):
    id: str
    status: str
    location: str
    follow: str | None = None
