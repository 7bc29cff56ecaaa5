"""What torch classifiers have in common: the way from arrays to arrays, on examples that sites share out.

A workload of this kind says its name, how its examples are loaded and how its network is built.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flower_app.workloads.guards import check_model
from flower_app.workloads.interface import Arrays, EvalResult, Metrics, NodeEnv, TrainResult
from flower_app.workloads.partition import Examples
from flower_app.workloads.site_examples import SiteExamples

if TYPE_CHECKING:
    import torch


class Classifier(SiteExamples):
    """A torch network that tells classes apart, on examples that every node loads and takes its own part of."""

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
        return self.scored_on_test(lambda test: self._scored(arrays, test))

    def quick_evaluate(self, arrays: Arrays, num_examples: int) -> Metrics:
        """Score on so many examples of the test split, the same ones in each round."""
        return self.scored_on_test(lambda test: self._scored(arrays, test), num_examples)

    def _scored(self, arrays: Arrays, test: Examples) -> Metrics:
        from flower_app.workloads import training

        return training.score(training.load(self.build(), arrays), test, self.config.device)
