"""What torch classifiers have in common: the split of their examples, and the way from arrays to arrays.

A workload of this kind says its name, how its examples are loaded and how its network is built.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flower_app.config import ConfigValue, RunConfig
from flower_app.workloads.data_dirs import DataMissing
from flower_app.workloads.guards import check_inputs, check_labels, check_model, check_values
from flower_app.workloads.interface import Arrays, EvalResult, Metrics, NodeEnv, TrainResult, derived_seed
from flower_app.workloads.partition import (
    LOCAL,
    Examples,
    Indices,
    Labels,
    check_partitioner,
    is_by_nature,
    partition,
    stratified_split,
)

if TYPE_CHECKING:
    import torch

TEST_SHARE = 0.2
SPLIT, SITES, HOLD_BACK, QUICK = 1, 2, 3, 4  # one stream of random numbers for each purpose


class Classifier(ABC):
    """A torch network that tells classes apart, on examples that every node loads and takes its own part of.

    no_natural_key: why the examples fall into no groups by themselves, as one clause; None where load() gives groups.
    same_everywhere: who brings the examples, where no site can have others; None where load() reads data folders.
    """

    name: str
    no_natural_key: ClassVar[str | None] = None
    same_everywhere: ClassVar[str | None] = None
    defaults: ClassVar[Mapping[str, ConfigValue]] = {}

    def __init__(self, config: RunConfig) -> None:
        """Raises ConfigError (keys `partitioner`, `partitioner-options`)."""
        self.config = config.left_to(self.defaults)
        check_partitioner(self.config, self.name, self.no_natural_key, self.same_everywhere)
        self._own: dict[int, tuple[Examples, Examples]] = {}
        self._lacks_test_set = False

    @abstractmethod
    def load(self, cache_dir: Path | None) -> Examples:
        """Give all examples of this machine, the test split among them; what is read may be kept below cache_dir."""

    @abstractmethod
    def build(self) -> "torch.nn.Module":
        """Make the network, which gives (examples, classes) logits, with weights from torch's own random numbers."""

    def initial_arrays(self) -> Arrays:
        """Draw the first weights from the run's seed."""
        import torch

        from flower_app.workloads import training

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return training.arrays_of(self.build())

    def prepare(self, env: NodeEnv) -> None:
        """Import torch, with this node's threads, and read the data. Raises DataMissing, DataUnfit, ConfigError."""
        import torch

        torch.set_num_threads(env.threads)
        self.own_examples(env)

    def train(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        """Train the arrived model on this site's examples but those held back."""
        from flower_app.workloads import training

        examples, _ = self.own_examples(env)
        return training.train(self._fitting(arrays, examples, env), examples, self.config, settings, env)

    def evaluate(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> EvalResult:
        """Score the arrived model on the share of this site's examples that is held back."""
        from flower_app.workloads import training

        _, held = self.own_examples(env)
        if not len(held):
            return EvalResult(0, {})
        return EvalResult(len(held), training.score(self._fitting(arrays, held, env), held, env.device))

    def _fitting(self, arrays: Arrays, examples: Examples, env: NodeEnv) -> "torch.nn.Module":
        """Make the model that arrived. Raises DataUnfit where it does not take these examples."""
        from flower_app.workloads import training

        model = training.load(self.build(), arrays)
        check_model(model, examples, env.node_name)
        return model

    def server_evaluate(self, arrays: Arrays) -> Metrics:
        """Score on the test set, which no site trains on; nothing where this machine has none."""
        return self._scored_on_test(arrays, None)

    def quick_evaluate(self, arrays: Arrays, num_examples: int) -> Metrics:
        """Score on so many examples of the test split, the same ones in each round."""
        return self._scored_on_test(arrays, num_examples)

    def _scored_on_test(self, arrays: Arrays, num_examples: int | None) -> Metrics:
        from flower_app.workloads import training

        test = self._test_set_here()
        if test is None:
            return {}
        if num_examples is not None:
            test = test.at(np.random.default_rng(derived_seed(self.config.seed, QUICK)).permutation(len(test))[:num_examples])
        return training.score(training.load(self.build(), arrays), self._ready(test), self.config.device)

    def _test_set_here(self) -> Examples | None:
        """Give the test set; a machine whose folders lack the data says so once."""
        if self._lacks_test_set:
            return None
        try:
            test = self.test_set()
        except DataMissing as missing:
            print(f"the server scores no model: {missing}", flush=True)
            test = None
        self._lacks_test_set = test is None
        return test

    def test_set(self) -> Examples | None:
        """Give what the server scores models on; None where sites have their examples to themselves. Raises DataMissing."""
        if self.config.partitioner == LOCAL:
            return None
        examples = self.load(None)
        return examples.at(self.split(examples.labels)[1])

    def split(self, labels: Labels) -> tuple[Indices, Indices]:
        """Tell what the sites share out from the test split, a fifth of each class."""
        return stratified_split(labels, TEST_SHARE, derived_seed(self.config.seed, SPLIT))

    def own_examples(self, env: NodeEnv) -> tuple[Examples, Examples]:
        """Give this site's examples to train on and those held back, eval-share of each class.

        Raises DataMissing, DataUnfit, ConfigError.
        """
        if env.partition_id not in self._own:
            examples = self.load(env.cache_dir)
            mine = self._places(examples, env)
            seed = derived_seed(self.config.seed, HOLD_BACK, env.partition_id)
            kept, held = stratified_split(examples.labels[mine], self.config.eval_share, seed)
            parts = [(mine[part], self._ready(examples.at(mine[part]))) for part in (kept, held)]
            for places, part in parts:
                check_inputs(part.x, env.node_name, places)
            self._own[env.partition_id] = (parts[0][1], parts[1][1])
        return self._own[env.partition_id]

    def _places(self, examples: Examples, env: NodeEnv) -> Indices:
        """Find this site's examples, all that it has (local) or its part of what all nodes have, and look at them.

        Where a site's part is what it is by nature, the part needs two classes; else all examples do, because to deal classes
        out is what a partitioner is for.
        """
        by_nature = is_by_nature(self.config.partitioner)
        check_labels(examples.labels, env.node_name, len(examples.x), classes=1 if by_nature else 2)
        places: Indices = np.arange(len(examples))
        if self.config.partitioner != LOCAL:
            places = self.split(examples.labels)[0]
            told = replace(examples, x=examples.labels).at(places)  # a copy of x would be for nothing
            parts = partition(told, env.num_partitions, self.config, derived_seed(self.config.seed, SITES))
            places = places[parts[env.partition_id]]
        if by_nature:
            check_labels(examples.labels[places], env.node_name)
        check_values(examples.x, env.node_name, places)
        return places

    def _ready(self, examples: Examples) -> Examples:
        return replace(examples, x=self.inputs(examples.x), labels=examples.labels.astype(np.int64, copy=False))

    def inputs(self, x: NDArray[Any]) -> NDArray[Any]:
        """Make what the network takes of examples as load() gives them: of any float float32, all else stays."""
        with np.errstate(over="ignore"):  # what is too large becomes Inf, which a guard tells of
            return x.astype(np.float32, copy=False) if x.dtype.kind == "f" else x
