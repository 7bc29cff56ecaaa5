"""A message on its way, and what became of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from flwr.app import Message
from flwr.serverapp import Grid

from flower_app.causes import Cause
from flower_app.replies import Asked, Refused, facts_of, payload_bytes
from flower_app.updates import REFUSED, Update
from flower_app.workloads.interface import Arrays, Metrics

PULL_BYTES = 64 * 2**20
"""Replies are pulled in groups whose models fit in here, and at least one at a time: a pull downloads all it can."""


@dataclass(frozen=True)
class Sent:
    """A message that a node owes an answer to.

    left_at: when the SuperLink was given it; at: monotonic seconds when it had it; node_name: as known then.
    """

    message_id: str
    node_id: int
    node_name: str | None
    kind: str
    bytes_down: int
    at: float
    left_at: datetime
    asked: Asked


def settled(
    reply: Message | None,
    sent: Sent,
    status: str,
    *,
    waited_s: float | None = None,
    cause: Cause | None = None,
    num_examples: int | None = None,
    metrics: Metrics | None = None,
    awaited: bool = False,
) -> Update:
    """Say what became of a message."""
    facts, timings = facts_of(reply) if reply else ({}, {})
    if waited_s is not None:
        timings["round_trip_s"] = round(waited_s, 3)
    return Update(
        round=sent.asked.round,
        node_id=sent.node_id,
        kind=sent.kind,
        message_id=sent.message_id,
        status=status,
        bytes_down=sent.bytes_down,
        bytes_up=payload_bytes(reply) if reply else 0,
        num_examples=num_examples,
        metrics=metrics or {},
        timings=timings,
        facts=facts,
        cause=cause.at(sent.node_id, facts.get("node_name") or sent.node_name) if cause else None,
        awaited=awaited,
    )


def refused(reply: Message, sent: Sent, why: Refused, waited_s: float | None = None) -> Update:
    """Say that an update came and is not usable."""
    return settled(reply, sent, REFUSED, waited_s=waited_s, cause=Cause("Refused", str(why)))


def pulled(grid: Grid, message_ids: Sequence[str], like: Arrays) -> Iterator[list[Message]]:
    """Pull what is ready, group by group, so that only as many models are in memory as fit in PULL_BYTES.

    Who takes a group empties it, and lets go of each reply before the next group is asked for.
    """
    group = max(1, PULL_BYTES // max(1, sum(values.nbytes for values in like.values())))
    for first in range(0, len(message_ids), group):
        yield list(grid.pull_messages(list(message_ids[first : first + group])))
