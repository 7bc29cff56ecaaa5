"""Messages that outlived their round: who still owes an answer, and answers that may count in a later round.

A node that owes one gets no new message. Under late = drop its client server cancels the old one, so that it is soon free; under
carry its update counts in the round that is at work when it came, discounted by the rounds it is late, unless that round has a
fresh one of the same node.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from flower_app.accumulate import Contribution, WeightedMean, staleness_discount
from flower_app.causes import cause_of_reply
from flower_app.config import RunConfig
from flower_app.control import Control
from flower_app.replies import Refused, ValidUpdate, read_update
from flower_app.sent import Sent, pulled, refused, settled
from flower_app.updates import COUNTED, FAILED, TRAIN, Update
from flower_app.workloads.interface import Arrays


@dataclass(frozen=True)
class Carried:
    """A valid update that came after its round had closed."""

    sent: Sent
    reply: Message
    update: ValidUpdate


class LateMessages:
    """All messages of closed rounds that are not answered yet, and what came of them."""

    def __init__(self, config: RunConfig, grid: Grid, on_update: Callable[[Update], None]) -> None:
        self.carries = config.late == "carry"
        self._alpha = config.staleness_alpha
        self._grid, self._on_update = grid, on_update
        self._owed: dict[str, Sent] = {}
        self._carried: dict[int, Carried] = {}

    def add(self, owed: Mapping[str, Sent], surplus: Sequence[tuple[Sent, Message]], like: Arrays) -> None:
        """Take over what a closed round leaves open, and the answers that came with its last update."""
        self._owed |= owed
        for sent, reply in surplus:
            self._take(reply, sent, like)

    def owing(self) -> list[int]:
        """Give the nodes that owe an answer."""
        return [sent.node_id for sent in self._owed.values()]

    def forget(self, control: Control) -> None:
        """A node that died owes nothing, be it back or not: whatever it worked on is gone."""
        self._owed = {
            message_id: sent for message_id, sent in self._owed.items() if not control.why_lost(sent.node_id, sent.left_at)
        }

    def take_in(self, like: Arrays) -> None:
        """Look for answers. like: a model of the run, for its form."""
        for group in pulled(self._grid, list(self._owed), like):
            while group:
                self._answered(group.pop(0), like)

    def count_in(self, number: int, mean: WeightedMean, fresh: set[int], least: int) -> int:
        """Add what was carried, but for nodes that have a fresh update; give how many were of earlier rounds.

        least: with fewer updates in all the round is tried again, and what was carried waits for that.
        """
        able = [self._carried[node_id] for node_id in sorted(self._carried.keys() - fresh)]
        if mean.count + len(able) < least:
            return 0
        self._carried.clear()
        counted = 0
        for carried in able:
            update, sent = carried.update, carried.sent
            weight = update.num_examples * staleness_discount(number - sent.asked.round, self._alpha)
            mean.add(Contribution(sent.node_id, update.arrays, update.num_examples, update.metrics, weight))
            told = settled(carried.reply, sent, COUNTED, num_examples=update.num_examples, metrics=update.metrics)
            self._on_update(told.counted_later(number))
            counted += sent.asked.round < number  # a late answer to an earlier try of this round is no guest in it
        return counted

    def _answered(self, reply: Message, like: Arrays) -> None:
        sent = self._owed.pop(reply.metadata.reply_to_message_id, None)
        if sent is not None:
            self._take(reply, sent, like)

    def _take(self, reply: Message, sent: Sent, like: Arrays) -> None:
        if sent.kind != TRAIN or not self.carries:
            return
        if reply.has_error():
            self._on_update(settled(reply, sent, FAILED, cause=cause_of_reply(reply.error)))
            return
        try:
            update = read_update(reply, like, sent.asked, sent.node_id)
        except Refused as refusal:
            self._on_update(refused(reply, sent, refusal))
            return
        self._carried[sent.node_id] = Carried(sent, reply, update)
