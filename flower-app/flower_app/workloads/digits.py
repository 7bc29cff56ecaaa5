"""`digits`: a small convolutional network on scikit-learn's handwritten digits."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flower_app.config import RunConfig
from flower_app.workloads.digits_data import Images, Labels, load_digits
from flower_app.workloads.interface import Arrays, EvalResult, Metrics, NodeEnv, TrainResult, derived_seed
from flower_app.workloads.partition import check_partitioner, partition, stratified_split

if TYPE_CHECKING:
    import torch

TEST_SHARE = 0.2
MOMENTUM = 0.9
SPLIT, SITES, HOLD_BACK = 1, 2, 3  # one stream of random numbers for each purpose


class Digits:
    """conv16 - conv32 - fc64 - fc10, 13 706 parameters; plain SGD with momentum, made anew each round."""

    name = "digits"

    def __init__(self, config: RunConfig) -> None:
        """Raises ConfigError (key `partitioner`)."""
        check_partitioner(config.partitioner)
        self._config = config

    def initial_arrays(self) -> Arrays:
        """Draw the first weights from the run's seed."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._config.seed)
            return _arrays_of(_build())

    def prepare(self, env: NodeEnv) -> None:
        """Import torch, with this node's threads, and read the images."""
        import torch

        torch.set_num_threads(env.threads)
        load_digits(env.cache_dir)

    def train(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> TrainResult:
        """Train local-epochs epochs, or local-steps batches where that is set."""
        import torch
        from torch.nn.functional import cross_entropy

        (images, labels), _ = self._own_data(env)
        model = _load(_build(), arrays)
        x, y = torch.from_numpy(images), torch.from_numpy(labels)
        step = _momentum_sgd(model, self._config.lr)
        losses, hits, seen = 0.0, 0, 0
        model.train()
        for batch in self._batches(len(y), env.seed):
            scores = model(x[batch])
            loss = cross_entropy(scores, y[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            step()
            losses += loss.item() * len(batch)
            hits += int((scores.argmax(1) == y[batch]).sum())
            seen += len(batch)
        return TrainResult(_arrays_of(model), min(seen, len(y)), {"loss": losses / seen, "accuracy": hits / seen})

    def evaluate(self, arrays: Arrays, settings: Mapping[str, Any], env: NodeEnv) -> EvalResult:
        """Score the arrived model on the share of this site's digits that is held back."""
        _, (images, labels) = self._own_data(env)
        if not len(labels):
            return EvalResult(0, {})
        return EvalResult(len(labels), _score(_load(_build(), arrays), images, labels))

    def server_evaluate(self, arrays: Arrays) -> Metrics:
        """Score on the test split, which no site trains on."""
        images, labels = load_digits(None)
        _, test = self._split(labels)
        return _score(_load(_build(), arrays), images[test], labels[test])

    def _own_data(self, env: NodeEnv) -> tuple[tuple[Images, Labels], tuple[Images, Labels]]:
        """Give this partition's (images, labels) to train on and those held back."""
        images, labels = load_digits(env.cache_dir)
        train, _ = self._split(labels)
        config = self._config
        mine = train[
            partition(
                labels[train],
                env.num_partitions,
                config.partitioner,
                alpha=config.dirichlet_alpha,
                seed=derived_seed(config.seed, SITES),
            )[env.partition_id]
        ]
        kept, held = stratified_split(labels[mine], config.eval_share, derived_seed(config.seed, HOLD_BACK, env.partition_id))
        return (images[mine[kept]], labels[mine[kept]]), (images[mine[held]], labels[mine[held]])

    def _split(self, labels: Labels) -> tuple[Any, Any]:
        return stratified_split(labels, TEST_SHARE, derived_seed(self._config.seed, SPLIT))

    def _batches(self, count: int, seed: int) -> "Iterator[torch.Tensor]":
        """Shuffle anew each epoch, until the epochs or the steps are used up."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        steps_of_epoch = -(-count // self._config.batch_size)
        left = self._config.local_steps or self._config.local_epochs * steps_of_epoch
        while left > 0:
            for batch in torch.split(torch.randperm(count, generator=generator), self._config.batch_size)[:left]:
                yield batch
                left -= 1


def _build() -> "torch.nn.Module":
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def _load(model: "torch.nn.Module", arrays: Arrays) -> "torch.nn.Module":
    import torch

    model.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in arrays.items()})
    return model


def _momentum_sgd(model: "torch.nn.Module", lr: float) -> Callable[[], None]:
    """Give the step of SGD with momentum, which uses the gradients up.

    The same arithmetic as torch.optim.SGD, whose first step imports torch._dynamo: 2.0 CPU-s, in a process that
    lives for one message and trains for half a second.
    """
    import torch

    parameters = list(model.parameters())
    velocities = [torch.zeros_like(parameter) for parameter in parameters]

    def step() -> None:
        with torch.no_grad():
            for parameter, velocity in zip(parameters, velocities, strict=True):
                velocity.mul_(MOMENTUM).add_(_gradient(parameter))
                parameter.add_(velocity, alpha=-lr)
                parameter.grad = None

    return step


def _gradient(parameter: "torch.Tensor") -> "torch.Tensor":
    assert parameter.grad is not None
    return parameter.grad


def _arrays_of(model: "torch.nn.Module") -> Arrays:
    return {name: values.detach().cpu().numpy() for name, values in model.state_dict().items()}


def _score(model: "torch.nn.Module", images: Images, labels: Labels) -> Metrics:
    import torch
    from torch.nn.functional import cross_entropy

    model.eval()
    with torch.inference_mode():
        scores, expected = model(torch.from_numpy(images)), torch.from_numpy(labels)
        return {
            "loss": float(cross_entropy(scores, expected)),
            "accuracy": float((scores.argmax(1) == expected).float().mean()),
        }
