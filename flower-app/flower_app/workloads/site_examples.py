"""What workloads that tell classes apart have in common, whatever trains: who has which examples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flower_app.config import ConfigValue, RunConfig
from flower_app.workloads.data_dirs import DataMissing
from flower_app.workloads.guards import check_inputs, check_labels, check_values
from flower_app.workloads.interface import Metrics, NodeEnv, derived_seed
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

TEST_SHARE = 0.2
SPLIT, SITES, HOLD_BACK, QUICK = 1, 2, 3, 4  # one stream of random numbers for each purpose


class SiteExamples(ABC):
    """Labelled examples that every node loads and takes its own part of, and a test set that no site trains on.

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

    def inputs(self, x: NDArray[Any]) -> NDArray[Any]:
        """Make what the network takes of examples as load() gives them: of any float float32, all else stays."""
        with np.errstate(over="ignore"):  # what is too large becomes Inf, which a guard tells of
            return x.astype(np.float32, copy=False) if x.dtype.kind == "f" else x

    def split(self, labels: Labels) -> tuple[Indices, Indices]:
        """Tell what the sites share out from the test split, a fifth of each class."""
        return stratified_split(labels, TEST_SHARE, derived_seed(self.config.seed, SPLIT))

    def test_set(self) -> Examples | None:
        """Give what the server scores models on; None where sites have their examples to themselves. Raises DataMissing."""
        if self.config.partitioner == LOCAL:
            return None
        examples = self.load(None)
        return examples.at(self.split(examples.labels)[1])

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

    def scored_on_test(self, score: Callable[[Examples], Metrics], num_examples: int | None = None) -> Metrics:
        """Score on the test set, or on so many of its examples, the same ones in each round; nothing where there is none here.

        score: of examples that the network takes.
        """
        test = self._test_set_here()
        if test is None:
            return {}
        if num_examples is not None:
            test = test.at(np.random.default_rng(derived_seed(self.config.seed, QUICK)).permutation(len(test))[:num_examples])
        return score(self._ready(test))

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

    def _ready(self, examples: Examples) -> Examples:
        return replace(examples, x=self.inputs(examples.x), labels=examples.labels.astype(np.int64, copy=False))
