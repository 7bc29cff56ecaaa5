"""What torch classifiers have in common: the split of their examples, and the way from arrays to arrays.

A workload of this kind says its name, how its examples are loaded and how its network is built.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from flower_app.config import ConfigValue, RunConfig
from flower_app.workloads.interface import Arrays, EvalResult, Metrics, NodeEnv, TrainResult, derived_seed
from flower_app.workloads.partition import Examples, Indices, Labels, check_partitioner, partition, stratified_split

if TYPE_CHECKING:
    import torch

TEST_SHARE = 0.2
SPLIT, SITES, HOLD_BACK, QUICK = 1, 2, 3, 4  # one stream of random numbers for each purpose


class Classifier(ABC):
    """A torch network that tells classes apart, on examples that every node loads and takes its own part of.

    no_natural_key: why the examples fall into no groups by themselves, as one clause; None where load() gives groups.
    """

    name: str
    no_natural_key: ClassVar[str | None] = None
    defaults: ClassVar[Mapping[str, ConfigValue]] = {}

    def __init__(self, config: RunConfig) -> None:
        """Raises ConfigError (key `partitioner`)."""
        self.config = config.left_to(self.defaults)
        check_partitioner(self.config.partitioner, self.name, self.no_natural_key)

    @abstractmethod
    def load(self, cache_dir: Path | None) -> Examples:
        """Give all examples, the test split among them; what is read may be kept below cache_dir."""

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
        """Import torch, with this node's threads, and read the data."""
        import torch

        torch.set_num_threads(env.threads)
        self.load(env.cache_dir)

    def train(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        """Train the arrived model on this site's examples but those held back."""
        from flower_app.workloads import training

        examples, _ = self.own_examples(env)
        return training.train(training.load(self.build(), arrays), examples, self.config, settings, env)

    def evaluate(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> EvalResult:
        """Score the arrived model on the share of this site's examples that is held back."""
        from flower_app.workloads import training

        _, held = self.own_examples(env)
        if not len(held):
            return EvalResult(0, {})
        return EvalResult(len(held), training.score(training.load(self.build(), arrays), held, env.device))

    def server_evaluate(self, arrays: Arrays) -> Metrics:
        """Score on the test split, which no site trains on."""
        return self._scored_on_test(arrays, None)

    def quick_evaluate(self, arrays: Arrays, num_examples: int) -> Metrics:
        """Score on so many examples of the test split, the same ones in each round."""
        return self._scored_on_test(arrays, num_examples)

    def _scored_on_test(self, arrays: Arrays, num_examples: int | None) -> Metrics:
        from flower_app.workloads import training

        examples = self.load(None)
        _, test = self.split(examples.labels)
        if num_examples is not None:
            test = np.random.default_rng(derived_seed(self.config.seed, QUICK)).permutation(test)[:num_examples]
        return training.score(training.load(self.build(), arrays), examples.at(test))

    def split(self, labels: Labels) -> tuple[Indices, Indices]:
        """Tell what the sites share out from the test split, a fifth of each class."""
        return stratified_split(labels, TEST_SHARE, derived_seed(self.config.seed, SPLIT))

    def own_examples(self, env: NodeEnv) -> tuple[Examples, Examples]:
        """Give this partition's examples to train on and those held back, eval-share of each class."""
        examples = self.load(env.cache_dir)
        shared = examples.at(self.split(examples.labels)[0])
        parts = partition(shared, env.num_partitions, self.config, derived_seed(self.config.seed, SITES))
        mine = shared.at(parts[env.partition_id])
        seed = derived_seed(self.config.seed, HOLD_BACK, env.partition_id)
        kept, held = stratified_split(mine.labels, self.config.eval_share, seed)
        return mine.at(kept), mine.at(held)
