"""Flower's strategies, driven by the round engine instead of their own `start()`.

A strategy writes the round's messages and turns updates into the next model. Rules that stream get one synthetic reply, the
mean of the round's updates with the sum of their examples; so they work unchanged on a stream. The others get all of them. Where
the mean is the model, Flower is not asked.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvgM
from numpy.typing import NDArray

from flower_app.accumulate import Contribution, HeldUpdates, WeightedMean, in_dtype
from flower_app.blocks import is_finite
from flower_app.config import RunConfig
from flower_app.products import ProductMean, Products
from flower_app.replies import ARRAYS, METRICS, NUM_EXAMPLES
from flower_app.rules import rule_of
from flower_app.wire import to_arrays, to_record
from flower_app.workloads.interface import Arrays

MESSAGE_TTL_S = 12 * 3600.0
"""A message's life counts its training too, so a short one kills the update; a longer round gets a longer life."""


LISTS = ("momentum_vector",)
"""What Flower keeps as a list of arrays, in the model's order."""


class ModelNotFinite(RuntimeError):
    """A strategy made NaN or Inf of updates that had none."""


class StrategyDriver:
    """One run's strategy and what it remembers between rounds."""

    def __init__(self, config: RunConfig) -> None:
        """Raises ConfigError."""
        self.rule = rule_of(config)
        self.name = config.strategy
        self.least = max(config.min_updates, self.rule.least(config))
        self._names: list[str] = []
        self._ttl_s = max(MESSAGE_TTL_S, config.round_timeout_s + 3600)
        with _quiet():
            self._strategy = self.rule.make(config)

    def gathering(self, like: Arrays, products: Products = ()) -> WeightedMean | HeldUpdates:
        """Begin what a round's updates go into. products: pairs whose products are averaged (products_of)."""
        if products:
            return ProductMean(like, products)
        return WeightedMean(like) if self.rule.streams else HeldUpdates()

    def messages(self, server_round: int, arrays: Arrays, node_ids: list[int], grid: Grid) -> list[Message]:
        """Write the round's train messages, one for each chosen node, in that order."""
        self._names = list(arrays)
        record = to_record(arrays)
        floats = arrays if self.rule.streams else _in_floats(arrays)
        offered = record if floats is arrays else to_record(floats)
        with _quiet():
            if isinstance(self._strategy, FedAvgM):
                self._strategy.current_arrays = None  # it starts from the model as it was committed, in one piece or two
            drafts = list(self._strategy.configure_train(server_round, offered, ConfigRecord(), OfferedNodes(grid, node_ids)))
        by_node = {draft.metadata.dst_node_id: draft for draft in drafts}
        return [
            Message(
                RecordDict({**draft.content, ARRAYS: record}),
                dst_node_id=node_id,
                message_type=draft.metadata.message_type,
                ttl=self._ttl_s,
                group_id=str(server_round),
            )
            for node_id in node_ids
            if (draft := by_node.get(node_id))
        ]

    def aggregate(self, server_round: int, gathered: WeightedMean | HeldUpdates, like: Arrays) -> Arrays:
        """Make the next model of at least `least` updates, in the dtypes of the last one, whole numbers rounded.

        like: the model that the round started from. The updates are given up for it: `gathered` has counts and metrics alone
        afterwards. Raises ModelNotFinite.
        """
        made = self._made(server_round, gathered)
        return {name: self._fitted(name, made.pop(name), values.dtype, gathered.count) for name, values in like.items()}

    def _made(self, server_round: int, gathered: WeightedMean | HeldUpdates) -> Arrays:
        if isinstance(gathered, HeldUpdates):
            replies = [self._reply_of(each) for each in gathered.hand_over()]
        elif self.rule.is_mean:
            return gathered.hand_over()
        else:
            replies = [_reply(1, gathered.hand_over(), {NUM_EXAMPLES: gathered.num_examples})]
        with _quiet(), np.errstate(all="ignore"):  # what leaves a dtype's range shows in the model, which is looked at
            made, _ = self._strategy.aggregate_train(server_round, replies)
        for reply in replies:
            reply.content[ARRAYS].clear()  # Flower leaves cycles behind that hold the replies until a collector comes by
        if made is None:
            raise RuntimeError(f"strategy {self.name} made no model of the {gathered.count} updates of round {server_round}")
        return to_arrays(made)

    def _reply_of(self, update: Contribution) -> Message:
        read = {name: update.metrics[name] for name in self.rule.reads}
        return _reply(update.node_id, _in_floats(update.arrays), {**read, NUM_EXAMPLES: update.num_examples})

    def _fitted(self, name: str, values: NDArray[Any], dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        with np.errstate(over="ignore", invalid="ignore"):
            fitted = in_dtype(values, dtype)
        if not is_finite(fitted if fitted.dtype.kind == "f" else values):
            raise ModelNotFinite(
                f"strategy {self.name} made NaN or Inf in array {name} of {count} updates that had none: their sum leaves the "
                "range of its numbers. Set max-update-norm, which refuses an update that is too far from the model, or lower lr "
                "or server-lr"
            )
        return fitted

    def state(self) -> Arrays:
        """Give what a commit must carry beside the model: `<attribute>/<array>`, as `m_t/<array>` of FedAdam.

        The arrays that a strategy's next step starts from are no part of it: they are the model, handed to messages().
        """
        return {
            f"{attribute}/{name}": np.asarray(values)
            for attribute in self.rule.memory
            for name, values in self._named(getattr(self._strategy, attribute))
        }

    def restore(self, state: Arrays, model: Arrays) -> None:
        """Go on from a commit's state, which has every part of the memory and nothing else. model: the commit's own.

        Raises RuntimeError.
        """
        memory: dict[str, Arrays] = {}
        for key, values in state.items():
            attribute, _, name = key.partition("/")
            memory.setdefault(attribute, {})[name] = values
        if memory.keys() != set(self.rule.memory):
            found, needed = sorted(memory), sorted(self.rule.memory)
            raise RuntimeError(f"the last commit carries the state {found}, strategy {self.name} goes on from {needed}")
        for attribute, arrays in memory.items():
            setattr(self._strategy, attribute, [arrays[name] for name in model] if attribute in LISTS else arrays)

    def _named(self, memory: Any) -> list[tuple[str, NDArray[Any]]]:
        if isinstance(memory, list):
            return list(zip(self._names, memory, strict=True))
        return list((memory or {}).items())


def _in_floats(arrays: Arrays) -> Arrays:
    """Give whole numbers as float64, and the same arrays where there are none: rules that need all updates compute in place."""
    if all(values.dtype.kind == "f" for values in arrays.values()):
        return arrays
    return {name: values if values.dtype.kind == "f" else values.astype(np.float64) for name, values in arrays.items()}


def _reply(node_id: int, arrays: Arrays, metrics: dict[str, int | float]) -> Message:
    """Write what Flower takes for a node's reply, with no metric that the rule does not read.

    Flower refuses all replies of a round in which two have other names of metrics, and names are what a site likes: one without a
    positive example has no sensitivity.
    """
    content = RecordDict({ARRAYS: to_record(arrays), METRICS: MetricRecord({**metrics})})
    return Message(content, dst_node_id=node_id, message_type="train")


class OfferedNodes(Grid):
    """A Grid that offers the engine's selection, because strategies choose by `get_node_ids()`."""

    def __init__(self, grid: Grid, node_ids: list[int]) -> None:
        self._grid, self._node_ids = grid, node_ids

    def get_node_ids(self) -> Iterable[int]:
        return list(self._node_ids)

    @property
    def run(self) -> Any:
        return self._grid.run

    def set_run(self, run: Any) -> None:
        self._grid.set_run(run)

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self._grid.send_and_receive(messages, timeout=timeout)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Flower's own counts out of the log: of one synthetic reply they say "1 result", which is not true."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
