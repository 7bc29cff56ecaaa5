"""Messages that outlived their round: who still owes an answer, and answers that may count in a later round.

A node that owes one gets no new message. Under late = drop its client server cancels the old one, so that it is soon free; under
carry its update counts in the round that is at work when it came, discounted by the rounds it is late, unless that round has a
fresh one of the same node.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from flower_app.accumulate import Contribution, WeightedMean, staleness_discount
from flower_app.config import RunConfig
from flower_app.replies import Refused, ValidUpdate, read_update
from flower_app.sent import Sent, pulled, refused, settled
from flower_app.updates import COUNTED, TRAIN, Update
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
        self._carries = config.late == "carry"
        self._alpha = config.staleness_alpha
        self._grid, self._on_update = grid, on_update
        self._owed: dict[str, Sent] = {}
        self._carried: dict[int, Carried] = {}

    def add(self, owed: Mapping[str, Sent]) -> None:
        """Take over what a closed round leaves open."""
        self._owed |= owed

    def owing(self) -> list[int]:
        """Give the nodes that owe an answer."""
        return [sent.node_id for sent in self._owed.values()]

    def take_in(self, like: Arrays, lost_nodes: Mapping[int, str]) -> None:
        """Look for answers. like: a model of the run, for its form."""
        for group in pulled(self._grid, list(self._owed), like):
            for reply in group:
                sent = self._owed.pop(reply.metadata.reply_to_message_id, None)
                if sent is not None and sent.kind == TRAIN and self._carries and not reply.has_error():
                    self._keep(reply, sent, like)
        self._owed = {message_id: sent for message_id, sent in self._owed.items() if sent.node_id not in lost_nodes}

    def _keep(self, reply: Message, sent: Sent, like: Arrays) -> None:
        try:
            update = read_update(reply, like, sent.asked, sent.node_id)
        except Refused as refusal:
            self._on_update(refused(reply, sent, refusal))
            return
        self._carried[sent.node_id] = Carried(sent, reply, update)

    def count_in(self, number: int, mean: WeightedMean, fresh: set[int]) -> int:
        """Add what was carried, but for nodes that have a fresh update; give how many were of earlier rounds."""
        counted = 0
        for carried in [self._carried.pop(node_id) for node_id in sorted(self._carried)]:
            update, sent = carried.update, carried.sent
            if sent.node_id in fresh:
                continue
            weight = update.num_examples * staleness_discount(number - sent.asked.round, self._alpha)
            mean.add(Contribution(sent.node_id, update.arrays, update.num_examples, update.metrics, weight))
            told = settled(carried.reply, sent, COUNTED, num_examples=update.num_examples, metrics=update.metrics)
            self._on_update(told.counted_later(number))
            counted += sent.asked.round < number  # a late answer to an earlier try of this round is no guest in it
        return counted
