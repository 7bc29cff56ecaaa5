"""The records of a run's journal: what the round engine writes and this server reads, one JSON object a line.

`docs/journal.schema.json` is generated from these models (`python -m admin_server.journal`), and a test keeps it true.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

NodeId = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,20}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RelativePath = Annotated[
    str, AfterValidator(lambda text: inside(text)), Field(json_schema_extra={"pattern": r"^(?!/)(?!.*(^|/)\.\.(/|$)).+$"})
]
Count = Annotated[int, Field(ge=0)]
RoundNumber = Annotated[int, Field(ge=1)]
Seconds = Annotated[FiniteFloat, Field(ge=0)]
Metrics = dict[str, FiniteFloat]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Cause(Strict):
    """Why something failed: which node, which exception, its last words."""

    node_id: str | None
    node_name: str | None
    type: str
    message: str
    traceback: str | None
    last_lines: list[str]


class Record(Strict):
    """What every line has. seq counts 1, 2, … over all attempts of the file."""

    seq: Annotated[int, Field(ge=1)]
    at: AwareDatetime
    attempt: NodeId


class Model(Strict):
    """The arrays that travel, and as `whole_` the model of which they are a part, where the workload says so."""

    parameters: Count
    size_bytes: Count
    whole_parameters: Count | None = None
    whole_size_bytes: Count | None = None


class RunOpened(Record):
    kind: Literal["run.opened"]
    workload: str
    strategy: str
    num_rounds: Count
    seed: int
    min_available: Count
    resumed_after: Count
    initial_model: Sha256 | None = None
    model: Model
    config: dict[str, str | int | float | bool]


class RoundWaiting(Record):
    """A round cannot begin: too few nodes. The run gives up at `until`."""

    kind: Literal["round.waiting"]
    round: RoundNumber
    available: Count
    wanted: Count
    until: AwareDatetime


class RoundOpened(Record):
    kind: Literal["round.opened"]
    round: RoundNumber
    nodes: list[NodeId]
    needed: Count


class Update(Record):
    """One node's answer of one round, or that there was none."""

    kind: Literal["update"]
    round: RoundNumber
    node_id: NodeId
    update_kind: Literal["train", "evaluate", "query"]
    wave: Count
    message_id: str
    status: Literal["counted", "refused", "failed", "lost", "late"]
    counted_in_round: RoundNumber | None = None  # journals of earlier versions lack it, and the next ones
    awaited: bool = False
    num_examples: Count | None
    metrics: Metrics
    bytes_down: Count
    bytes_up: Count
    timings: dict[str, Seconds]
    facts: dict[str, Any]
    cause: Cause | None


class Commit(Strict):
    file: RelativePath
    sha256: Sha256
    size_bytes: Count


class RoundClosed(Record):
    """The commit of a round: without this line the round does not exist."""

    kind: Literal["round.closed"]
    round: RoundNumber
    counted: Count
    carried: Count = 0
    expected: Count
    num_examples: Count
    metrics: Metrics
    server_metrics: Metrics
    seconds: Seconds
    aggregate_s: Seconds
    bytes_down: Count
    bytes_up: Count
    commit: Commit


class RoundScored(Record):
    """What sites scored the model of a committed round, where they were asked apart from training."""

    kind: Literal["round.scored"]
    round: RoundNumber
    expected: Count
    counted: Count
    metrics: Metrics


class Score(Strict):
    """Why a model is the best so far. by: whose evaluation it is."""

    metric: str
    value: FiniteFloat
    by: Literal["server", "clients"]


class Artifact(Record):
    kind: Literal["artifact"]
    name: str
    role: Literal["checkpoint", "best", "final"]
    path: RelativePath
    sha256: Sha256
    size_bytes: Count
    format: str
    round: Count
    parents: list[Sha256]
    score: Score | None = None


class ArtifactRemoved(Record):
    """Retention has let a model go: its file is gone, or goes at the next attempt."""

    kind: Literal["artifact.removed"]
    name: str
    role: Literal["checkpoint", "best", "final"]
    path: RelativePath
    sha256: Sha256
    round: Count


class RunPaused(Record):
    kind: Literal["run.paused"]
    after_round: Count


class RunResumed(Record):
    kind: Literal["run.resumed"]
    after_round: Count


class RunClosed(Record):
    """The run's own word about its end; it outweighs all that others say."""

    kind: Literal["run.closed"]
    status: Literal["completed", "failed", "stopped"]
    last_round: Count
    cause: Cause | None
    ended_early: str | None = None


AnyRecord = Annotated[
    RunOpened
    | RoundWaiting
    | RoundOpened
    | Update
    | RoundClosed
    | RoundScored
    | Artifact
    | ArtifactRemoved
    | RunPaused
    | RunResumed
    | RunClosed,
    Field(discriminator="kind"),
]
RECORD: TypeAdapter[AnyRecord] = TypeAdapter(AnyRecord)


def parse_line(text: str) -> dict[str, Any]:
    """Check one line and give it back as the plain dict that the store applies.

    Raises ValueError, naming the first field that is wrong.
    """
    try:
        record = RECORD.validate_json(text)
    except ValidationError as refused:
        first = refused.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "line"
        raise ValueError(f"{where}: {first['msg']}") from None
    return record.model_dump(mode="json")


def inside(text: str) -> str:
    """Refuse a path that would leave the run's directory."""
    parts = text.split("/")
    if not text or parts[0] == "" or ".." in parts:
        raise ValueError("must stay inside the run's directory")
    return text


def schema() -> dict[str, Any]:
    """Give the JSON Schema of one line."""
    body = RECORD.json_schema()
    title = "One line of a run's journal.jsonl"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **body}


if __name__ == "__main__":
    json.dump(schema(), sys.stdout, indent=2)
    sys.stdout.write("\n")
