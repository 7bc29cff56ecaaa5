"""One round in the air: messages leave, replies are taken in as they come, until the round may close."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from flower_app.accumulate import WeightedMean
from flower_app.causes import Cause, cause_of_reply
from flower_app.clock import Clock
from flower_app.control import Control
from flower_app.replies import Refused, facts_of, payload_bytes, read_update
from flower_app.updates import COUNTED, FAILED, LATE, LOST, REFUSED, Update
from flower_app.wire import size_bytes
from flower_app.workloads.interface import Arrays

POLL_S = 0.2
PULL_BYTES = 64 * 2**20
"""Replies are pulled in groups whose models fit in here, and at least one at a time: a pull downloads all it can."""


@dataclass(frozen=True)
class Sent:
    """A message that a node owes an answer to."""

    node_id: int
    bytes_down: int
    at: float


class OpenRound:
    """The messages of one round and what became of them.

    Every node of the round ends in exactly one Update, handed to on_update as soon as it is known.
    """

    def __init__(
        self,
        number: int,
        like: Arrays,
        grid: Grid,
        clock: Clock,
        control: Callable[[], Control],
        on_update: Callable[[Update], None],
        name_of: Callable[[int], str | None],
    ) -> None:
        """like: the model that the round starts from. control: read at each poll; it may raise to leave the round."""
        self._number, self._like = number, like
        self._grid, self._clock, self._control, self._on_update = grid, clock, control, on_update
        self._name_of = name_of
        self.mean = WeightedMean(like)
        self.updates: list[Update] = []
        self.pending: dict[str, Sent] = {}
        self.aggregate_s = 0.0

    def send(self, messages: Sequence[Message]) -> None:
        """Let the messages leave; a node that the SuperLink does not know any more is lost at once."""
        if not messages:
            return
        sizes = [size_bytes(message.content) for message in messages]
        ids = list(self._grid.push_messages(messages))
        if len(ids) != len(messages):
            raise RuntimeError(f"the SuperLink took {len(ids)} of {len(messages)} messages")
        at = self._clock.monotonic()
        for message, size, message_id in zip(messages, sizes, ids, strict=True):
            sent = Sent(message.metadata.dst_node_id, size, at)
            if message_id:
                self.pending[message_id] = sent
            else:
                self._settle(message_id, sent, LOST, cause=Cause("NODE_UNAVAILABLE", "the SuperLink has no such node"))

    def collect(self, needed: int, deadline: float) -> None:
        """Take replies in until `needed` are counted, nobody is left to wait for, or deadline (monotonic s) has come."""
        while self.pending and self.mean.count < needed:
            self._lose(self._control().lost_nodes)
            if self._take_in(needed):
                continue
            if self._clock.monotonic() >= deadline:
                break
            self._clock.sleep(POLL_S)

    def close(self) -> dict[str, Sent]:
        """Call all who have not answered late, and give what they still owe."""
        owed, self.pending = self.pending, {}
        for message_id, sent in owed.items():
            waited_s = self._clock.monotonic() - sent.at
            cause = Cause("RoundClosed", f"no answer when the round closed, {waited_s:.0f} s after its message left")
            self._settle(message_id, sent, LATE, cause=cause)
        return owed

    def _take_in(self, needed: int) -> bool:
        """Pull once over all that is open; tell whether anything came."""
        before = len(self.updates)
        for group in pulled(self._grid, list(self.pending), self._like):
            for reply in group:
                sent = self.pending.pop(reply.metadata.reply_to_message_id, None)
                if sent is not None:
                    self._read(reply, sent, needed)
            if self.mean.count >= needed:
                break
        return len(self.updates) > before

    def _read(self, reply: Message, sent: Sent, needed: int) -> None:
        message_id = reply.metadata.reply_to_message_id
        if self.mean.count >= needed:
            cause = Cause("RoundClosed", f"it came with the update that was number {needed} and closed the round")
            self._settle(message_id, sent, LATE, reply=reply, cause=cause)
            return
        if reply.has_error():
            status = LOST if reply.error.code == ErrorCode.NODE_UNAVAILABLE else FAILED
            self._settle(message_id, sent, status, reply=reply, cause=cause_of_reply(reply.error))
            return
        try:
            if reply.metadata.src_node_id != sent.node_id:
                raise Refused(f"it comes from node {reply.metadata.src_node_id}, which was not asked")
            update = read_update(reply, self._like)
        except Refused as refusal:
            self._settle(message_id, sent, REFUSED, reply=reply, cause=Cause("Refused", str(refusal)))
            return
        start = time.perf_counter()
        self.mean.add(update.arrays, update.num_examples, update.metrics)
        self.aggregate_s += time.perf_counter() - start
        self._settle(message_id, sent, COUNTED, reply=reply, num_examples=update.num_examples, metrics=update.metrics)

    def _lose(self, lost_nodes: Mapping[int, str]) -> None:
        for message_id, sent in list(self.pending.items()):
            if sent.node_id in lost_nodes:
                del self.pending[message_id]
                self._settle(message_id, sent, LOST, cause=Cause("NodeLost", lost_nodes[sent.node_id]))

    def _settle(
        self,
        message_id: str,
        sent: Sent,
        status: str,
        *,
        reply: Message | None = None,
        cause: Cause | None = None,
        num_examples: int | None = None,
        metrics: dict[str, float] | None = None,
    ) -> None:
        facts, timings = facts_of(reply) if reply else ({}, {})
        timings["round_trip_s"] = round(self._clock.monotonic() - sent.at, 3)
        update = Update(
            round=self._number,
            node_id=sent.node_id,
            message_id=message_id,
            status=status,
            bytes_down=sent.bytes_down,
            bytes_up=payload_bytes(reply) if reply else 0,
            num_examples=num_examples,
            metrics=metrics or {},
            timings=timings,
            facts=facts,
            cause=cause.at(sent.node_id, facts.get("node_name") or self._name_of(sent.node_id)) if cause else None,
        )
        self.updates.append(update)
        self._on_update(update)


def pulled(grid: Grid, message_ids: Sequence[str], like: Arrays) -> Iterator[list[Message]]:
    """Pull what is ready, group by group, so that only as many models are in memory as fit in PULL_BYTES."""
    group = max(1, PULL_BYTES // max(1, sum(values.nbytes for values in like.values())))
    for first in range(0, len(message_ids), group):
        yield list(grid.pull_messages(list(message_ids[first : first + group])))
