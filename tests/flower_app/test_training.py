"""The torch part that classifiers share: steps and batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flower_app.config import RunConfig
from flower_app.workloads.partition import Examples
from flower_app.workloads.training import batches, momentum_sgd, train

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def config(**values: Any) -> RunConfig:
    return RunConfig.parse({key.replace("_", "-"): value for key, value in values.items()})


def test_the_step_is_torchs_own_sgd_with_momentum() -> None:
    ours, theirs = network(), network()
    step, optimizer = momentum_sgd(ours, 0.05), torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    for seed in range(5):
        x = torch.rand(4, 6, generator=torch.Generator().manual_seed(seed))
        ours(x).square().mean().backward()
        step()
        theirs(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


def test_an_epoch_is_every_example_once_and_steps_end_it_anywhere() -> None:
    assert len(list(batches(25, config(local_steps=7, batch_size=10), seed=1))) == 7
    two_epochs = list(batches(25, config(local_epochs=2, batch_size=10), seed=1))
    assert [len(batch) for batch in two_epochs] == [10, 10, 5, 10, 10, 5]
    assert sorted(torch.cat(two_epochs[:3]).tolist()) == list(range(25))


def test_partial_steps_count_the_examples_that_were_seen() -> None:
    examples = Examples(np.ones((50, 6), np.float32), np.zeros(50, np.int64))
    assert train(network(), examples, config(local_steps=2, batch_size=16), {}, seed=1).num_examples == 32
    assert train(network(), examples, config(local_steps=9, batch_size=16), {}, seed=1).num_examples == 50
