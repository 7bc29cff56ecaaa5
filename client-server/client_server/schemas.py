"""Bodies and answers of the REST API; an unknown field is refused, not ignored."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    model_validator,
)

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]


class Body(BaseModel):
    """A request body: what it does not know, it refuses."""

    model_config = ConfigDict(extra="forbid")


class EnrolmentRequest(Body):
    """POST /enrolment."""

    invitation: str = Field(min_length=1, max_length=20_000, repr=False)


class EnrolmentAnswer(BaseModel):
    """This site's ids at its coordinator."""

    node_id: str
    flower_node_id: str | None


class SupernodeStartRequest(Body):
    """POST /supernode/start; an empty body starts it as it was enrolled."""

    partition_id: StrictInt | None = Field(default=None, ge=0, description="Which part of the data is this site's, from 0.")
    num_partitions: StrictInt | None = Field(default=None, ge=1, description="How many parts there are.")
    superlink_address: str | None = Field(
        default=None, max_length=300, description="host:port; default: the one given at enrolment."
    )
    node_config: dict[str, StrictBool | StrictInt | FiniteFloat | StrictStr] = Field(
        default_factory=dict, description="Further keys that ClientApps read in context.node_config."
    )
    insecure: bool = Field(default=False, description="No TLS and no node key; to a SuperLink on loopback only.")
    certificates_path: str | None = Field(
        default=None, description="PEM file of the CA, or a folder with ca.crt; default: from enrolment."
    )
    clientappio_api_address: str | None = Field(
        default=None, description="127.0.0.1:port of the SuperNode's own API; default: a free port."
    )
    extra_args: list[str] = Field(
        default_factory=list, max_length=20, description="Further flags of flower-supernode, from a short list."
    )

    @model_validator(mode="after")
    def _partition_fits(self) -> "SupernodeStartRequest":
        if (self.partition_id is None) != (self.num_partitions is None):
            raise ValueError("partition_id and num_partitions go together")
        if self.partition_id is not None and self.num_partitions is not None and self.partition_id >= self.num_partitions:
            raise ValueError(f"partition_id {self.partition_id} is not below num_partitions {self.num_partitions}")
        return self


class HealthAnswer(BaseModel):
    """GET /health; all but status and version only with the token."""

    status: str
    version: str
    pid: int | None = None
    supernode: dict[str, Any] | None = Field(default=None, description="state, pid, session_id, started_at, reason")
    log_path: str | None = None
    node_id: str | None = None
    project_slug: str | None = None
    enrolment: dict[str, Any] | None = Field(default=None, description="state enrolled, removed, refused or none; problem")
    coordinator: dict[str, Any] | None = Field(default=None, description="state connected, away or none; problem")
    spooled_lines_dropped: dict[str, int] | None = Field(default=None, description="By kind, since the spool was made.")


class Accepted(BaseModel):
    """A long action has begun; poll the Location."""

    state: str
    location: str = "/supernode"


class MessageAtWork(BaseModel):
    """The message that a ClientApp works on."""

    flower_run_id: str
    message_id: str
    pid: int | None
    since: str


class SupernodeAnswer(BaseModel):
    """GET /supernode."""

    state: str
    pid: int | None
    flower_node_id: str | None
    session_id: str | None
    restarts: int
    restart_in_s: float | None
    reason: str | None
    last_lines: list[str]
    started_at: datetime | None
    message_at_work: MessageAtWork | None
    request: dict[str, Any] | None


class Dataset(Body):
    """Data that this site can train on."""

    id: Name
    tags: list[Name] = Field(default_factory=list, max_length=100)
    suitable_models: list[Name] = Field(default_factory=list, max_length=100)
    num_items: StrictInt | None = Field(default=None, ge=0)
    label_distribution: dict[str, Annotated[FiniteFloat, Field(ge=0)]] | None = Field(
        default=None, max_length=10_000, description="Items, or shares, by label."
    )


class InventoryRequest(Body):
    """PUT /inventory: replaces the list of datasets. The hardware is seen, not said."""

    datasets: list[Dataset] = Field(max_length=1000)

    @model_validator(mode="after")
    def _ids_differ(self) -> "InventoryRequest":
        seen: set[str] = set()
        for dataset in self.datasets:
            if dataset.id in seen:
                raise ValueError(f"dataset id {dataset.id!r} is there twice")
            seen.add(dataset.id)
        return self


class InventoryAnswer(BaseModel):
    """GET /inventory; label distributions are shown here even when they do not leave the site."""

    hardware: dict[str, Any]
    datasets: list[Dataset]
    label_distribution_shared: bool


class LogLine(BaseModel):
    """A line of the SuperNode's log; key is the offset behind it in bytes."""

    key: int
    text: str


class LogPage(BaseModel):
    """GET /supernode/logs."""

    items: list[LogLine]
    next: int | None
