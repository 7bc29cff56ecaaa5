"""The run config and the node config, parsed once from Flower's kebab-case mappings.

Errors: ConfigError names the key, what it needs and what it got.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType
from typing import Any, TypeVar

ConfigValue = bool | int | float | str
T = TypeVar("T")


class ConfigError(ValueError):
    """A key of the run config or of a node's config has a value that cannot be used."""


def key(default: ConfigValue, **limits: Any) -> Any:
    """Declare a key with its default and the range its value must lie in: at_least, above, below, at_most, or choices."""
    return field(default=default, metadata=limits)


OPEN: Mapping[str, ConfigValue] = {
    "lr": 0.05,
    "optimizer": "sgd",
    "batch-size": 32,
    "local-epochs": 5,
    "partitioner": "dirichlet",
}
"""What a workload that says nothing else trains with, where the run leaves it open."""

MOMENTUM = 0.9
"""Of the optimizer sgd, whatever trains with it."""

BUDGET = ("local-epochs", "local-steps", "local-seconds")
"""What ends a site's training in a round; the first of those that are set, that is reached."""


DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class RunConfig:
    """What a run does, the same on the server and on every node.

    Key `num-rounds` is field `num_rounds`; defaults equal `[tool.flwr.app.config]` of pyproject.toml.
    Times are seconds. `values` holds every key as given, a workload's own ones too. What is left to the workload is 0 or
    empty until left_to() has filled it in.
    """

    current_run_id: str = key("")
    workload: str = key("digits")
    initial_model: str = key("")
    num_rounds: int = key(10, at_least=1)
    strategy: str = key("fedavg")
    proximal_mu: float = key(0.1, at_least=0)
    server_lr: float = key(0.0, at_least=0)
    server_momentum: float = key(0.9, above=0, below=1)
    beta_1: float = key(0.9, at_least=0, below=1)
    beta_2: float = key(0.99, at_least=0, below=1)
    tau: float = key(0.001, above=0)
    trim_share: float = key(0.2, at_least=0, below=0.5)
    malicious_nodes: int = key(0, at_least=0)
    krum_select: int = key(1, at_least=1)
    fair_q: float = key(0.1, at_least=0)
    seed: int = key(42, at_least=0)
    lr: float = key(0.0, at_least=0)
    optimizer: str = key("", choices=("", "sgd", "adamw"))
    weight_decay: float = key(0.0, at_least=0)
    lr_schedule: str = key("constant", choices=("constant", "linear", "cosine"))
    warmup_share: float = key(0.0, at_least=0, below=1)
    local_epochs: int = key(0, at_least=0)
    local_steps: int = key(0, at_least=0)
    local_seconds: float = key(0.0, at_least=0)
    batch_size: int = key(0, at_least=0)
    device: str = key("auto", choices=DEVICES)
    amp: str = key("auto", choices=("auto", "off"))
    memory_warning_share: float = key(0.9, above=0, at_most=1)
    hidden_size: int = key(32, at_least=0)
    base_model: str = key("")
    num_layers: int = key(0, at_least=0)
    max_length: int = key(0, at_least=0)
    lora_r: int = key(16, at_least=0)
    lora_alpha: float = key(32.0, above=0)
    lora_dropout: float = key(0.0, at_least=0, below=1)
    lora_targets: str = key("")
    lora_aggregation: str = key("svd", choices=("svd", "avg", "ffa"))
    dataset: str = key("")
    layers: str = key("")
    wasm_module: str = key("")
    wasm_memory_mb: int = key(0, at_least=0, at_most=4095)
    wasm_timeout_s: float = key(0.0, at_least=0, at_most=10_000_000)
    partitioner: str = key("")
    partitioner_options: str = key("")
    dirichlet_alpha: float = key(0.3, above=0)
    classes_per_site: int = key(2, at_least=1)
    eval_share: float = key(0.2, at_least=0, below=1)
    server_eval_every: int = key(1, at_least=0)
    checkpoint_every: int = key(0, at_least=0)
    client_eval_every: int = key(0, at_least=0)
    client_eval_fraction: float = key(1.0, above=0, at_most=1)
    client_eval_nodes: str = key("")
    client_eval_timeout_s: float = key(120.0, above=0)
    quick_eval_examples: int = key(0, at_least=0)
    stop_metric: str = key("")
    stop_at: float = key(0.0)
    stop_mode: str = key("max", choices=("max", "min"))
    k_of_n: int = key(0, at_least=0)
    min_updates: int = key(1, at_least=1)
    round_retries: int = key(2, at_least=0)
    late: str = key("drop", choices=("drop", "carry"))
    staleness_alpha: float = key(0.5, at_least=0)
    max_update_norm: float = key(0.0, at_least=0)
    server_memory_limit_mb: int = key(0, at_least=0)
    keep_checkpoints: int = key(0, at_least=0)
    milestones_every: int = key(0, at_least=0)
    best_metric: str = key("accuracy")
    best_mode: str = key("max", choices=("max", "min"))
    min_available: int = key(1, at_least=1)
    min_available_timeout_s: float = key(600, at_least=0)
    round_timeout_s: float = key(3600, above=0)
    run_timeout_s: float = key(0.0, at_least=0)
    values: Mapping[str, ConfigValue] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @classmethod
    def parse(cls, values: Mapping[str, ConfigValue]) -> "RunConfig":
        """Read Flower's run config; keys that are missing take their defaults, unknown ones stay in `values`.

        Raises ConfigError.
        """
        parsed: dict[str, Any] = {}
        effective: dict[str, ConfigValue] = dict(values)
        for each in fields(cls):
            if each.name == "values":
                continue
            name = each.name.replace("_", "-")
            assert each.default is not MISSING
            value = _typed(name, values.get(name, each.default), each.type)  # type: ignore[arg-type]
            _in_range(name, value, each.metadata)
            parsed[each.name] = effective[name] = value
        return cls(**parsed, values=MappingProxyType(effective))

    def left_to(self, workload: Mapping[str, ConfigValue]) -> "RunConfig":
        """Fill in what the run leaves to its workload: each key of OPEN that is 0 or empty; of BUDGET, where all three are.

        workload: its own defaults, by key; what it does not say is as OPEN says. They may hold keys that are 0 or empty where
        nobody says anything, and keys of its own. Raises ConfigError for another one, and for a value that no run could give.
        """
        for each in fields(self):
            if (name := each.name.replace("_", "-")) in workload and each.name != "values" and each.default:
                why = f"nobody could tell a run that says {each.default!r} from one that says nothing"
                raise ConfigError(f'workload "{self.workload}" cannot have a default of its own for {name}: {why}')
        defaults = {**OPEN, **workload}
        if any(workload.get(name) for name in BUDGET):
            defaults |= {name: workload.get(name, 0) for name in BUDGET}
        if any(self.values[name] for name in BUDGET):
            defaults = {name: value for name, value in defaults.items() if name not in BUDGET}
        filled = {name: value for name, value in defaults.items() if not self.values.get(name)}
        return RunConfig.parse({**self.values, **filled})


@dataclass(frozen=True)
class NodeConfig:
    """Who a node is and which part of the data is its own, as its SuperNode was started."""

    node_id: str
    name: str
    partition_id: int
    num_partitions: int

    @classmethod
    def parse(cls, values: Mapping[str, ConfigValue], node_id: int) -> "NodeConfig":
        """Read `partition-id=0 num-partitions=3 node-name="site-a"`; a missing name becomes the node id.

        Raises ConfigError, naming key and node.
        """
        name = str(values.get("node-name") or node_id)
        node = f'node "{name}"'
        num_partitions = _required(values, "num-partitions", node)
        if num_partitions < 1:
            raise ConfigError(f"num-partitions of {node} needs to be at least 1, got {num_partitions}")
        partition_id = _required(values, "partition-id", node)
        if not 0 <= partition_id < num_partitions:
            raise ConfigError(
                f"partition-id of {node} needs to lie in 0..{num_partitions - 1} (num-partitions is {num_partitions}), "
                f"got {partition_id}"
            )
        return cls(str(node_id), name, partition_id, num_partitions)


def device_wish(value: ConfigValue) -> str:
    """Check the device that a run or a node's config wishes for. Raises ConfigError."""
    _in_range("device", value, {"choices": DEVICES})
    return str(value)


def _required(values: Mapping[str, ConfigValue], name: str, node: str) -> int:
    if name not in values:
        how = "--node-config 'partition-id=0 num-partitions=3'"
        raise ConfigError(f"{name} of {node} is missing: start its SuperNode with {how}")
    return _typed(f"{name} of {node}", values[name], int)


def _typed(name: str, value: ConfigValue, kind: type[T]) -> T:
    """Check the type as Flower does not: a bool is no number, an int is a float, nothing else is converted."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        words = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
        raise ConfigError(f"{name} needs {words[kind]}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} needs a finite number, got {value!r}")
    return value


_TESTS: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "at_least": (operator.ge, "at least"),
    "above": (operator.gt, "above"),
    "below": (operator.lt, "below"),
    "at_most": (operator.le, "at most"),
}


def _in_range(name: str, value: Any, limits: Mapping[str, Any]) -> None:
    for kind, limit in limits.items():
        if kind == "choices":
            if value not in limit:
                raise ConfigError(f"{name} needs to be one of {', '.join(limit)}, got {value!r}")
            continue
        holds, words = _TESTS[kind]
        if not holds(value, limit):
            raise ConfigError(f"{name} needs to be {words} {limit:g}, got {value!r}")
