"""One round in the air: messages leave, replies are taken in as they come, until the round may close."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from flower_app.accumulate import Contribution, MeanMetrics
from flower_app.causes import Cause, cause_of_reply
from flower_app.clock import Clock
from flower_app.control import Control
from flower_app.replies import Asked, Refused, ValidUpdate
from flower_app.sent import Sent, pulled, refused, settled
from flower_app.updates import COUNTED, FAILED, LATE, LOST, Update
from flower_app.wire import size_bytes
from flower_app.workloads.interface import Arrays

POLL_S = 0.2
T = TypeVar("T", bound=MeanMetrics)
Read = Callable[[Message, Arrays, Asked, int], ValidUpdate]


@dataclass(frozen=True)
class Around:
    """What a round needs of the run around it.

    control: read at each poll; it may raise to leave the round. on_update: told each Update as soon as it is known.
    name_of: a node's name, where somebody has told it.
    """

    grid: Grid
    clock: Clock
    control: Callable[[], Control]
    on_update: Callable[[Update], None]
    name_of: Callable[[int], str | None]


class OpenRound(Generic[T]):
    """The messages of one round and what became of them: every node that was asked ends in exactly one Update."""

    def __init__(
        self,
        kind: str,
        asked: Asked,
        like: Arrays,
        read: Read,
        gathered: T,
        around: Around,
        started: float,
        *,
        awaits_late: bool = False,
    ) -> None:
        """kind: what is asked for. like: a model, for its form. read: checks a reply. gathered: what valid ones go into.

        started: monotonic s. awaits_late: an answer that comes after the end may still count in a later round.
        """
        self._awaits_late = awaits_late
        self._kind, self._asked, self._like, self._read, self._around = kind, asked, like, read, around
        self.gathered, self.started = gathered, started
        self.carried = 0
        self.updates: list[Update] = []
        self.pending: dict[str, Sent] = {}
        self.surplus: list[tuple[Sent, Message]] = []
        self.aggregate_s = 0.0

    def send(self, messages: Sequence[Message]) -> None:
        """Let the messages leave; a node that the SuperLink does not know any more is lost at once."""
        if not messages:
            return
        left_at = self._around.clock.now()
        sizes = [size_bytes(message.content) for message in messages]
        ids = list(self._around.grid.push_messages(messages))
        if len(ids) != len(messages):
            raise RuntimeError(f"the SuperLink took {len(ids)} of {len(messages)} messages")
        at = self._around.clock.monotonic()
        for message, size, message_id in zip(messages, sizes, ids, strict=True):
            node_id = message.metadata.dst_node_id
            name = self._around.name_of(node_id)
            sent = Sent(message_id, node_id, name, self._kind, size, at, left_at, self._asked)
            if message_id:
                self.pending[message_id] = sent
            else:
                self._settle(sent, LOST, cause=Cause("NODE_UNAVAILABLE", "the SuperLink has no such node"))

    def collect(self, needed: int, deadline: float) -> None:
        """Take replies in until `needed` are counted, nobody is left to wait for, or deadline (monotonic s) has come."""
        while self.pending and self.gathered.count < needed:
            control = self._around.control()  # first: what a node has sent before it died is taken in
            if self._take_in(needed):
                continue
            self._lose(control)
            if self._around.clock.monotonic() >= deadline:
                break
            self._around.clock.sleep(POLL_S)

    def close(self) -> dict[str, Sent]:
        """Call all who have not answered late, and give what they still owe; `surplus` has what came with the last update."""
        owed, self.pending = self.pending, {}
        for sent in owed.values():
            cause = Cause("RoundClosed", f"no answer when the round closed, {self._waited_s(sent):.0f} s after its message left")
            self._settle(sent, LATE, cause=cause, awaited=self._awaits_late)
        return owed

    def counted(self) -> set[int]:
        """Give the nodes whose update counts."""
        return {update.node_id for update in self.updates if update.status == COUNTED}

    def _take_in(self, needed: int) -> bool:
        """Pull once over all that is open; tell whether anything came."""
        before = len(self.updates)
        for group in pulled(self._around.grid, list(self.pending), self._like):
            self._around.control()  # a stop kills the ClientApps: it is seen before what comes of that is taken in
            while group:
                self._answered(group.pop(0), needed)
            if self.gathered.count >= needed:
                break
            self._around.control()
        return len(self.updates) > before

    def _answered(self, reply: Message, needed: int) -> None:
        sent = self.pending.pop(reply.metadata.reply_to_message_id, None)
        if sent is not None:
            self._take(reply, sent, needed)

    def _take(self, reply: Message, sent: Sent, needed: int) -> None:
        if reply.has_error():
            status = LOST if reply.error.code == ErrorCode.NODE_UNAVAILABLE else FAILED
            self._settle(sent, status, reply=reply, cause=cause_of_reply(reply.error))
            return
        if self.gathered.count >= needed:
            cause = Cause("RoundClosed", f"it came with the update that was number {needed} and closed the round")
            self._settle(sent, LATE, reply=reply, cause=cause, awaited=self._awaits_late)
            if self._awaits_late:
                self.surplus.append((sent, reply))
            return
        try:
            update = self._read(reply, self._like, self._asked, sent.node_id)
        except Refused as refusal:
            self._tell(refused(reply, sent, refusal, self._waited_s(sent)))
            return
        start = time.perf_counter()
        weight = float(update.num_examples)
        self.gathered.add(Contribution(sent.node_id, update.arrays, update.num_examples, update.metrics, weight))
        self.aggregate_s += time.perf_counter() - start
        told = settled(
            reply, sent, COUNTED, waited_s=self._waited_s(sent), num_examples=update.num_examples, metrics=update.metrics
        )
        self._tell(told)

    def _lose(self, control: Control) -> None:
        for message_id, sent in list(self.pending.items()):
            if why := control.why_lost(sent.node_id, sent.left_at):
                del self.pending[message_id]
                self._settle(sent, LOST, cause=Cause("NodeLost", why))

    def _settle(self, sent: Sent, status: str, *, cause: Cause, reply: Message | None = None, awaited: bool = False) -> None:
        self._tell(settled(reply, sent, status, waited_s=self._waited_s(sent), cause=cause, awaited=awaited))

    def _tell(self, update: Update) -> None:
        self.updates.append(update)
        self._around.on_update(update)

    def _waited_s(self, sent: Sent) -> float:
        return self._around.clock.monotonic() - sent.at
