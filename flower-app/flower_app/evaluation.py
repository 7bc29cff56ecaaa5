"""When a model is scored, by whom, and whether it is good enough to stop.

In the train message each site scores the model that arrived. Beside that: sites of one's own choice score the model that a round
made, every so many rounds; the server scores it on its test set, in full every m rounds and on a part of it in the others.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from logging import WARNING

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log

from flower_app.config import ConfigError, RunConfig
from flower_app.replies import ARRAYS, CONFIG
from flower_app.updates import EVALUATE
from flower_app.wire import to_record
from flower_app.workloads.interface import Arrays, Metrics, Workload, derived_seed

CHOICE = 7  # one stream of random numbers for this purpose


class Evaluation:
    """The run's rules for it."""

    def __init__(self, config: RunConfig, workload: Workload) -> None:
        """Raises ConfigError for what the workload cannot do."""
        self._config = config
        self._full: Callable[[Arrays], Metrics] | None = getattr(workload, "server_evaluate", None)
        self._quick: Callable[[Arrays, int], Metrics] | None = getattr(workload, "quick_evaluate", None)
        if config.quick_eval_examples and self._quick is None:
            raise ConfigError(f"quick-eval-examples: workload {config.workload} has no quick_evaluate, so choose 0")
        if config.client_eval_every and not config.eval_share:
            raise ConfigError("client-eval-every has sites score models, and eval-share 0 leaves them nothing to score on")

    def on_server(self, number: int, arrays: Arrays) -> Metrics:
        """Score the model of a round; those of a part of the test set have `quick_` before their names."""
        every, is_last = self._config.server_eval_every, number == self._config.num_rounds
        if self._full is not None and every and (number % every == 0 or is_last):
            return _finite(self._full(arrays))
        if self._quick is not None and self._config.quick_eval_examples:
            scores = _finite(self._quick(arrays, self._config.quick_eval_examples))
            return {f"quick_{name}": value for name, value in scores.items()}
        return {}

    def asked_after(self, number: int, free: Sequence[int], name_of: Callable[[int], str | None]) -> list[int]:
        """Choose who scores the model of a round: nobody, or client-eval-fraction of those that client-eval-nodes names."""
        every = self._config.client_eval_every
        if not every or (number % every and number != self._config.num_rounds):
            return []
        named = {name.strip() for name in self._config.client_eval_nodes.split(",") if name.strip()}
        able = sorted(node for node in free if not named or name_of(node) in named or str(node) in named)
        count = math.ceil(len(able) * self._config.client_eval_fraction)
        drawn = random.Random(derived_seed(self._config.seed, CHOICE, number))  # noqa: S311  (a draw that can be repeated)
        return sorted(drawn.sample(able, count))

    def messages(self, number: int, arrays: Arrays, nodes: Sequence[int], ttl_s: float) -> list[Message]:
        """Write the evaluate messages of a round."""
        content: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {ARRAYS: to_record(arrays)}
        content[CONFIG] = ConfigRecord({"server-round": number})
        group = f"{number}-{EVALUATE}"
        return [
            Message(RecordDict(content), dst_node_id=node, message_type=EVALUATE, ttl=ttl_s, group_id=group) for node in nodes
        ]

    def good_enough(self, server: Mapping[str, float], clients: Mapping[str, float]) -> str | None:
        """Say why training may stop: stop-metric of the server, else of the sites, has reached stop-at; None while it has not."""
        name, bar = self._config.stop_metric, self._config.stop_at
        value = server.get(name, clients.get(f"eval_{name}", clients.get(name))) if name else None
        if value is None:
            return None
        reached = value >= bar if self._config.stop_mode == "max" else value <= bar
        return f"{name} is {value:.6g}, and stop-at is {bar:g}" if reached else None


def _finite(scores: Metrics) -> Metrics:
    """Leave out what is NaN or Inf, as the loss of a model that diverges; neither the journal's JSON nor a chart has it."""
    gone = sorted(name for name, value in scores.items() if not math.isfinite(value))
    if gone:
        log(WARNING, "the server's scores %s are not finite and are left out", ", ".join(gone))
    return {name: float(value) for name, value in scores.items() if name not in gone}
