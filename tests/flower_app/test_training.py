"""The torch part that classifiers share: steps, batches, FedProx's term."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flower_app.config import RunConfig
from flower_app.workloads.partition import Examples
from flower_app.workloads.training import arrays_of, batches, momentum_sgd, train

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def config(**values: Any) -> RunConfig:
    return RunConfig.parse({key.replace("_", "-"): value for key, value in values.items()})


@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_the_step_is_torchs_own_sgd_on_the_loss_with_fedproxs_term(mu: float) -> None:
    ours, theirs, start = network(), network(), list(network().parameters())
    step, optimizer = momentum_sgd(ours, 0.05, mu), torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    for seed in range(5):
        x = torch.rand(4, 6, generator=torch.Generator().manual_seed(seed))
        ours(x).square().mean().backward()
        step()
        away = sum((now - then.detach()).square().sum() for now, then in zip(theirs.parameters(), start, strict=True))
        (theirs(x).square().mean() + mu / 2 * away).backward()
        optimizer.step()
        optimizer.zero_grad()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


def test_a_larger_proximal_mu_keeps_the_update_nearer_to_the_model_that_arrived() -> None:
    random = np.random.default_rng(1)
    examples = Examples(random.normal(size=(64, 6)).astype(np.float32), random.integers(0, 2, 64))
    start = arrays_of(network())

    def distance(settings: dict[str, Any]) -> float:
        trained = train(network(), examples, config(local_epochs=20), settings, seed=3).arrays
        return float(np.sqrt(sum(np.square(trained[name] - start[name]).sum() for name in start)))

    free, *held = (distance(settings) for settings in ({}, *({"proximal-mu": mu} for mu in (0.0, 0.1, 1.0, 10.0))))
    assert free == held[0]
    assert held == sorted(held, reverse=True)
    assert held[-1] < free / 5


def test_an_epoch_is_every_example_once_and_steps_end_it_anywhere() -> None:
    assert len(list(batches(25, config(local_steps=7, batch_size=10), seed=1))) == 7
    two_epochs = list(batches(25, config(local_epochs=2, batch_size=10), seed=1))
    assert [len(batch) for batch in two_epochs] == [10, 10, 5, 10, 10, 5]
    assert sorted(torch.cat(two_epochs[:3]).tolist()) == list(range(25))


def test_partial_steps_count_the_examples_that_were_seen() -> None:
    examples = Examples(np.ones((50, 6), np.float32), np.zeros(50, np.int64))
    assert train(network(), examples, config(local_steps=2, batch_size=16), {}, seed=1).num_examples == 32
    assert train(network(), examples, config(local_steps=9, batch_size=16), {}, seed=1).num_examples == 50
