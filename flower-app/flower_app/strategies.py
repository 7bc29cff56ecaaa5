"""Flower's strategies, driven by the round engine instead of their own `start()`.

A strategy writes the round's messages and turns updates into the next model. Rules that are a weighted mean get one
synthetic reply, the mean of the round's updates with the sum of their examples; so they work unchanged on a stream.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx, Strategy

from flower_app.accumulate import WeightedMean, in_dtype
from flower_app.config import ConfigError, RunConfig
from flower_app.replies import ARRAYS, METRICS, NUM_EXAMPLES
from flower_app.wire import to_arrays, to_record
from flower_app.workloads.interface import Arrays

ASK_ALL: dict[str, Any] = {"fraction_evaluate": 0.0, "min_train_nodes": 1, "min_available_nodes": 1}
"""Each strategy asks all nodes that the engine offers it, to train alone."""

MESSAGE_TTL_S = 12 * 3600.0
"""A message's life counts its training too, so a short one kills the update; a longer round gets a longer life."""


@dataclass(frozen=True)
class Rule:
    """How Flower's strategy is made, and what it remembers from round to round.

    memory: its attributes that a commit carries beside the model, each an array for each of the model's, once it is set.
    """

    make: Callable[[RunConfig], Strategy]
    memory: tuple[str, ...] = ()


def _fed_adam(config: RunConfig) -> Strategy:
    return FedAdam(eta=config.server_lr, beta_1=config.beta_1, beta_2=config.beta_2, tau=config.tau, **ASK_ALL)


STRATEGIES = {
    "fedadam": Rule(_fed_adam, memory=("m_t", "v_t")),
    "fedavg": Rule(lambda config: FedAvg(**ASK_ALL)),
    "fedprox": Rule(lambda config: FedProx(proximal_mu=config.proximal_mu, **ASK_ALL)),
}


class StrategyDriver:
    """One run's strategy and what it remembers between rounds."""

    def __init__(self, config: RunConfig) -> None:
        """Raises ConfigError (key `strategy`)."""
        if config.strategy not in STRATEGIES:
            raise ConfigError(f'strategy "{config.strategy}" is unknown; choose one of {", ".join(sorted(STRATEGIES))}')
        self.name = config.strategy
        self._ttl_s = max(MESSAGE_TTL_S, config.round_timeout_s + 3600)
        self._memory = STRATEGIES[config.strategy].memory
        with _quiet():
            self._strategy = STRATEGIES[config.strategy].make(config)

    def messages(self, server_round: int, arrays: ArrayRecord, node_ids: list[int], grid: Grid) -> list[Message]:
        """Write the round's train messages, one for each chosen node, in that order."""
        with _quiet():
            drafts = list(self._strategy.configure_train(server_round, arrays, ConfigRecord(), OfferedNodes(grid, node_ids)))
        by_node = {draft.metadata.dst_node_id: draft for draft in drafts}
        return [
            Message(
                draft.content,
                dst_node_id=node_id,
                message_type=draft.metadata.message_type,
                ttl=self._ttl_s,
                group_id=str(server_round),
            )
            for node_id in node_ids
            if (draft := by_node.get(node_id))
        ]

    def aggregate(self, server_round: int, mean: WeightedMean) -> Arrays:
        """Make the next model of the mean of at least one update, in the dtypes of the last one, whole numbers rounded."""
        arrays = mean.arrays()
        content = RecordDict(
            {ARRAYS: to_record(arrays), METRICS: MetricRecord({**mean.metrics(), NUM_EXAMPLES: mean.num_examples})}
        )
        with _quiet():
            made, _ = self._strategy.aggregate_train(server_round, [Message(content, dst_node_id=1, message_type="train")])
        if made is None:
            raise RuntimeError(f"strategy {self.name} made no model of round {server_round}")
        return {name: in_dtype(values, arrays[name].dtype) for name, values in to_arrays(made).items()}

    def state(self) -> Arrays:
        """Give what a commit must carry beside the model: `m_t/<array>` and `v_t/<array>` of FedAdam, nothing of the others.

        The arrays that FedAdam's next step starts from are no part of it: they are the model, handed to messages().
        """
        return {
            f"{attribute}/{name}": values
            for attribute in self._memory
            for name, values in (getattr(self._strategy, attribute) or {}).items()
        }

    def restore(self, state: Arrays) -> None:
        """Go on from a commit's state, which has every part of the memory and nothing else.

        Raises RuntimeError.
        """
        memory: dict[str, Arrays] = {}
        for key, values in state.items():
            attribute, _, name = key.partition("/")
            memory.setdefault(attribute, {})[name] = values
        if memory.keys() != set(self._memory):
            found, needed = sorted(memory), sorted(self._memory)
            raise RuntimeError(f"the last commit carries the state {found}, strategy {self.name} goes on from {needed}")
        for attribute, arrays in memory.items():
            setattr(self._strategy, attribute, arrays)


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
