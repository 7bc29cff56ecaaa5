"""One node's part in one round, as the journal has it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flower_app.causes import Cause
from flower_app.workloads.interface import Metrics

COUNTED, REFUSED, FAILED, LOST, LATE = "counted", "refused", "failed", "lost", "late"
"""counted: in the mean. refused: it came and was not usable. failed: the node answered with an error.
lost: the node is gone. late: no answer when the round closed, or one too many."""

TRAIN, EVALUATE = "train", "evaluate"
"""What a message asks for."""


@dataclass(frozen=True)
class Update:
    """What became of one message; cause is null for a counted one. awaited: a late answer may still count in a later round."""

    round: int
    node_id: int
    message_id: str
    status: str
    bytes_down: int
    bytes_up: int = 0
    num_examples: int | None = None
    metrics: Metrics = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    cause: Cause | None = None
    kind: str = TRAIN
    counted_in_round: int | None = None
    awaited: bool = False

    def counted_later(self, number: int) -> "Update":
        """Say that it counts in a later round than the one it answers."""
        return replace(self, counted_in_round=number)

    def record(self) -> dict[str, Any]:
        """Give the fields of an `update` record."""
        return {
            "round": self.round,
            "node_id": str(self.node_id),
            "update_kind": self.kind,
            "wave": 0,
            "message_id": self.message_id,
            "status": self.status,
            "counted_in_round": self.counted_in_round or (self.round if self.status == COUNTED else None),
            "awaited": self.awaited,
            "num_examples": self.num_examples,
            "metrics": dict(self.metrics),
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
            "timings": dict(self.timings),
            "facts": dict(self.facts),
            "cause": self.cause.record() if self.cause else None,
        }


@dataclass(frozen=True)
class ClosedRound:
    """A round's sum: what the `round.closed` record says beside its commit."""

    round: int
    counted: int
    carried: int
    expected: int
    num_examples: int
    metrics: Metrics
    server_metrics: Metrics
    seconds: float
    aggregate_s: float
    bytes_down: int
    bytes_up: int

    def record(self) -> dict[str, Any]:
        """Give the fields of a `round.closed` record, without its commit."""
        return {
            "round": self.round,
            "counted": self.counted,
            "carried": self.carried,
            "expected": self.expected,
            "num_examples": self.num_examples,
            "metrics": self.metrics,
            "server_metrics": self.server_metrics,
            "seconds": round(self.seconds, 3),
            "aggregate_s": round(self.aggregate_s, 6),
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
        }
