"""What the guest makes of a model is what PyTorch makes of it, and the same bits each time."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from flower_app.config import MOMENTUM, RunConfig
from flower_app.workloads import mlp
from flower_app.workloads.digits import Digits
from flower_app.workloads.optimizers import MomentumSGD, Proximity
from flower_app.workloads.partition import Examples
from flower_app.workloads.wasm.modules import find_module
from flower_app.workloads.wasm.sandbox import run_module
from flower_app.workloads.wasm.task import Limits, Outcome, Task
from torch import nn
from torch.nn.functional import cross_entropy

from tests.wasm_task.guest import built, differ, fitted, task

DEPTHS = [(3, 2), (64, 10), (5, 7, 3), (64, 32, 10), (13, 9, 8, 17, 5), (1, 1, 2), (9, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 4)]
RULES = [
    {"momentum": 0.0},
    {"momentum": 0.9},
    {"momentum": 0.0, "weight_decay": 0.1},
    {"momentum": 0.0, "proximal_mu": 0.5},
    {"momentum": 0.5, "weight_decay": 0.01, "proximal_mu": 0.3},
]


def run(given: Task, module: bytes | None = None) -> Outcome:
    return run_module(module or find_module("", frozenset(), None, Limits()).wasm, given, Limits(), None)


def in_torch(given: Task) -> dict[str, np.ndarray]:
    """Take full-batch steps with what our torch workloads train by."""
    sizes = [given.x.shape[1], *(len(values) for name, values in given.arrays.items() if name.endswith(".bias"))]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    network, how = nn.Sequential(*layers[:-1]), given.hyperparameters
    network.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in given.arrays.items()})
    optimizer = MomentumSGD(list(network.parameters()), how.lr, how.weight_decay)
    proximity = Proximity(network.parameters(), how.proximal_mu)
    for _ in range(how.steps):
        loss = cross_entropy(network(torch.from_numpy(given.x)), torch.from_numpy(given.labels).long())
        loss.backward()  # type: ignore[no-untyped-call]
        proximity.pull()
        optimizer.step()
        optimizer.zero_grad()
    return {name: values.numpy() for name, values in network.state_dict().items()}


@pytest.mark.parametrize("sizes", DEPTHS)
@pytest.mark.parametrize("more", [{}, {"weight_decay": 0.05}, {"proximal_mu": 0.4}, {"weight_decay": 0.05, "proximal_mu": 0.4}])
def test_full_batch_steps_are_those_of_pytorch(sizes: tuple[int, ...], more: dict[str, float]) -> None:
    given = task(sizes, 37, epochs=0, steps=6, batch_size=37, momentum=MOMENTUM, **more)
    assert differ(run(given).arrays, in_torch(given)) < 1e-5


@pytest.mark.parametrize("sizes", DEPTHS)
@pytest.mark.parametrize("rule", RULES)
def test_batches_of_any_size_train_by_the_rule(sizes: tuple[int, ...], rule: dict[str, float]) -> None:
    for count, batch_size in ((1, 1), (22, 1), (22, 5), (22, 8), (22, 100)):
        given = task(sizes, count, epochs=3, batch_size=batch_size, lr=0.01, **rule)
        outcome, wanted = run(given), fitted(given)
        assert differ(outcome.arrays, wanted.arrays) < 2e-5
        assert outcome.metrics == pytest.approx({"loss": wanted.loss, "accuracy": wanted.accuracy}, abs=1e-5)


@pytest.mark.parametrize(
    ("epochs", "steps", "made"), [(2, 0, 6), (0, 7, 7), (5, 7, 7), (2, 7, 6), (1, 1, 1), (2**53 - 1, 2, 2), (1, 2**53 - 1, 3)]
)
def test_a_fit_ends_with_its_epochs_or_its_steps(epochs: int, steps: int, made: int) -> None:
    given = task(count=20, epochs=epochs, steps=steps)
    wanted = fitted(replace(given, hyperparameters=replace(given.hyperparameters, epochs=min(epochs, 10))))
    assert wanted.steps == made
    assert differ(run(given).arrays, wanted.arrays) < 1e-5


def test_digits_are_learned() -> None:
    examples = Digits(RunConfig.parse({})).load(None)
    x, labels = np.ascontiguousarray(examples.x.reshape(len(examples), -1)), examples.labels.astype(np.int32)
    given = replace(task((64, 32, 10), epochs=10, batch_size=32, lr=0.05), x=x, labels=labels)
    outcome = run(given)
    after = mlp.score(outcome.arrays, Examples(x, examples.labels))
    assert after["accuracy"] >= 0.97
    assert after["loss"] < outcome.metrics["loss"]
    assert 0.85 < outcome.metrics["accuracy"] < after["accuracy"]


def test_the_same_seed_gives_the_same_bits_and_another_one_others() -> None:
    given = task((9, 6, 4), 50, epochs=2)
    first, again = run(given), run(given)
    other = run(replace(given, hyperparameters=replace(given.hyperparameters, seed=2**53 - 1)))
    assert {name: values.tobytes() for name, values in first.arrays.items()} == {
        name: values.tobytes() for name, values in again.arrays.items()
    }
    assert first.metrics == again.metrics
    assert all(first.arrays[name].tobytes() != other.arrays[name].tobytes() for name in first.arrays)


@pytest.mark.parametrize("sizes", DEPTHS)
def test_both_abis_give_the_same_bits(sizes: tuple[int, ...]) -> None:
    given = task(sizes, 30, epochs=2, weight_decay=1e-3, proximal_mu=0.1)
    one, other = run(given), run(given, built("propeller"))
    assert (one.abi, other.abi) == ("fl/1", "propeller")
    assert one.metrics == other.metrics
    for name, values in one.arrays.items():
        assert values.tobytes() == other.arrays[name].tobytes()


def test_what_did_not_move_is_the_same_bits() -> None:
    given = task((4, 3, 2), lr=0.0)
    odd = {name: values.copy() for name, values in given.arrays.items()}
    odd["0.weight"].flat[:5] = [-0.0, 1e-45, -3.4028235e38, 1.17549435e-38, 1 / 3]
    given = replace(given, arrays=odd, x=given.x * 0)
    for module in (None, built("propeller")):
        assert run(given, module).arrays["0.weight"].tobytes() == odd["0.weight"].tobytes()
