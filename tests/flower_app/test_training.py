"""The torch part that classifiers share: steps, batches, FedProx's term."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flower_app.config import RunConfig
from flower_app.workloads import precision
from flower_app.workloads.guards import DataUnfit
from flower_app.workloads.interface import NodeEnv
from flower_app.workloads.memory import OutOfMemory
from flower_app.workloads.optimizers import MomentumSGD, Proximity, share_of_lr
from flower_app.workloads.partition import Examples
from flower_app.workloads.precision import Precision
from flower_app.workloads.training import arrays_of, batches, fit, load, score, train

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def env(seed: int) -> NodeEnv:
    return NodeEnv("a", 0, 1, 1, seed, 1, "cpu", None)


def config(**values: Any) -> RunConfig:
    return RunConfig.parse({key.replace("_", "-"): value for key, value in values.items()}).left_to({})


@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_the_step_is_torchs_own_sgd_on_the_loss_with_fedproxs_term(mu: float) -> None:
    ours, theirs, start = network(), network(), list(network().parameters())
    step, proximity = MomentumSGD(list(ours.parameters()), 0.05, 0.01), Proximity(ours.parameters(), mu)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    for seed in range(5):
        x = torch.rand(4, 6, generator=torch.Generator().manual_seed(seed))
        ours(x).square().mean().backward()
        proximity.pull()
        step.step()
        step.zero_grad()
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
        trained = train(network(), examples, config(local_epochs=20), settings, env(3)).arrays
        return float(np.sqrt(sum(np.square(trained[name] - start[name]).sum() for name in start)))

    free, *held = (distance(settings) for settings in ({}, *({"proximal-mu": mu} for mu in (0.0, 0.1, 1.0, 10.0))))
    assert free == held[0]
    assert held == sorted(held, reverse=True)
    assert held[-1] < free / 5


def test_an_epoch_is_every_example_once_and_steps_end_it_anywhere() -> None:
    assert len(list(batches(25, config(local_steps=7, batch_size=10), seed=1))) == 7
    assert len(list(batches(25, config(local_steps=7, local_epochs=1, batch_size=10), seed=1))) == 3, "whichever comes first"
    drawn = list(batches(25, config(local_epochs=2, batch_size=10), seed=1))
    assert [progress for _, progress in drawn] == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    two_epochs = [batch for batch, _ in drawn]
    assert [len(batch) for batch in two_epochs] == [10, 10, 5, 10, 10, 5]
    assert sorted(torch.cat(two_epochs[:3]).tolist()) == list(range(25))


def test_partial_steps_count_the_examples_that_were_seen() -> None:
    examples = Examples(np.ones((50, 6), np.float32), np.zeros(50, np.int64))
    assert train(network(), examples, config(local_steps=2, batch_size=16), {}, env(1)).num_examples == 32
    assert train(network(), examples, config(local_steps=9, batch_size=16), {}, env(1)).num_examples == 50


def test_seconds_end_a_fit_too_and_one_batch_is_always_seen() -> None:
    endless = batches(25, config(local_seconds=0.2, batch_size=10), seed=1)
    progress = [share for _, share in endless]
    assert len(progress) > 3
    assert progress == sorted(progress)
    assert progress[-1] < 1
    assert len(list(batches(25, config(local_seconds=1e-9), seed=1))) == 1


def test_no_example_is_no_endless_fit() -> None:
    def loss(batch: torch.Tensor) -> tuple[torch.Tensor, None]:
        raise AssertionError("there is no batch")

    with pytest.raises(DataUnfit, match=r'^node "a": there is no example to train on$'):
        fit(network(), loss, 0, config(), {}, env(1))
    with pytest.raises(ValueError, match=r"^batches need at least 1 example, got 0$"):
        next(batches(0, config(), seed=1))


@pytest.mark.parametrize(("schedule", "shares"), [("constant", (1, 1, 1)), ("linear", (1, 0.5, 0)), ("cosine", (1, 0.5, 0))])
def test_the_learning_rate_warms_up_and_then_takes_its_course(schedule: str, shares: tuple[float, ...]) -> None:
    assert [share_of_lr(schedule, 0.2, progress) for progress in (0.2, 0.6, 1.0)] == pytest.approx(shares)
    assert [share_of_lr(schedule, 0.2, progress) for progress in (0, 0.1)] == [0.01, 0.5], "the first step moves too"


def test_a_schedule_is_new_in_each_round() -> None:
    examples = Examples(np.random.default_rng(1).normal(size=(64, 6)).astype(np.float32), np.arange(64) % 2)
    constant, falling = (train(network(), examples, config(lr_schedule=name), {}, env(1)) for name in ("constant", "linear"))
    again = train(network(), examples, config(lr_schedule="linear"), {}, env(1))
    assert not np.array_equal(constant.arrays["0.weight"], falling.arrays["0.weight"])
    np.testing.assert_array_equal(falling.arrays["0.weight"], again.arrays["0.weight"])


def test_adamw_learns_and_leaves_what_is_frozen_alone() -> None:
    model = network()
    next(model.children()).requires_grad_(requires_grad=False)
    before, examples = arrays_of(network()), Examples(np.eye(6, dtype=np.float32).repeat(8, 0), np.arange(48) // 24)
    trained = train(model, examples, config(optimizer="adamw", lr=0.01, weight_decay=0.01), {"proximal-mu": 0.1}, env(1))
    np.testing.assert_array_equal(trained.arrays["0.weight"], before["0.weight"])
    assert score(load(network(), trained.arrays), examples)["loss"] < score(load(network(), before), examples)["loss"]


def test_a_fit_tells_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    model, now = network(), [7.0]
    model.register_forward_hook(lambda *_: now.append(now[-1] + 0.5))
    monkeypatch.setattr("flower_app.workloads.training.time", SimpleNamespace(monotonic=lambda: now[-1]))
    examples = Examples(np.ones((50, 6), np.float32), np.zeros(50, np.int64))
    told = train(model, examples, config(local_steps=4, memory_warning_share=1e-6, amp="off"), {}, env(1))
    assert (told.metrics["step_s"], told.metrics["examples_per_s"]) == (0.5, 50), "four batches: 32, 18, 32 and 18 examples"
    assert (told.facts["device"], told.facts["steps"], told.facts["precision"]) == ("cpu", 4, "float32")
    assert int(told.facts["fit_rss_start_bytes"]) > 10**6
    assert re.fullmatch(r"the fit took \d+\.\d\d of \d+\.\d\d GB RAM, more than .*1e-06", str(told.facts["memory_warning"]))
    assert "memory_warning" not in train(network(), examples, config(local_steps=1), {}, env(1)).facts


def test_images_as_large_as_fashions_are_trained_with_channels_last() -> None:
    seen = []

    class Watched(torch.nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous())
            return super().forward(x).mean((2, 3))

    for side in (8, 28):
        examples = Examples(np.ones((8, 3, side, side), np.float32), np.zeros(8, np.int64))
        trained = train(Watched(3, 2, 3), examples, config(local_steps=1), {}, env(1))
        assert all(values.flags.c_contiguous for values in trained.arrays.values()), "what travels is in C order"
    assert seen == [False, True]


def test_memory_that_is_short_is_told_with_the_knobs_to_turn() -> None:
    def greedy(batch: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.empty(2**50).sum(), None  # the allocator's own refusal

    with pytest.raises(OutOfMemory, match=r"cpu out of memory: .*DefaultCPUAllocator.* Lower batch-size"):
        fit(network(), greedy, 4, config(), {}, env(1))

    def wrong(batch: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.ones(3) @ torch.ones(4), None

    with pytest.raises(RuntimeError, match="inconsistent tensor size") as raised:
        fit(network(), wrong, 4, config(), {}, env(1))
    assert not isinstance(raised.value, OutOfMemory)


def test_half_precision_is_for_machines_that_compute_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for has, wanted in ((False, None), (True, torch.bfloat16)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx2": True, "amx_bf16": has})
        assert Precision(cpu, "auto").dtype is wanted
        assert Precision(cpu, "off").dtype is None
    examples = Examples(np.eye(6, dtype=np.float32).repeat(8, 0), np.arange(48) // 24)
    told = train(network(), examples, config(), {}, env(1))
    assert told.facts["precision"] == "bfloat16"
    assert told.metrics["accuracy"] > 0.5
    assert all(values.dtype == np.float32 for values in told.arrays.values())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_float16_with_scaled_losses_takes_the_steps_of_float32(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = Examples(np.eye(6, dtype=np.float32).repeat(8, 0), np.arange(48) // 24)
    trained = []
    for dtype in (None, torch.float16):
        monkeypatch.setattr(precision, "half_type", lambda device, dtype=dtype: dtype)
        trained.append(train(network(), examples, config(optimizer=optimizer, lr=0.01), {"proximal-mu": 0.1}, env(1)))
    plain, scaled = trained
    assert (plain.facts["precision"], scaled.facts["precision"]) == ("float32", "float16")
    for name, values in arrays_of(network()).items():
        np.testing.assert_allclose(scaled.arrays[name] - values, plain.arrays[name] - values, atol=1e-4)


def test_a_first_step_that_overflows_is_left_out_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "half_type", lambda device: torch.float16)
    scaled, model, once, x = Precision(torch.device("cpu"), "auto"), network(), network(), torch.ones(4, 6)
    ours, theirs = MomentumSGD(list(model.parameters()), 0.05, 0.0), torch.optim.SGD(once.parameters(), 0.05, 0.9)
    for factor in (float("inf"), 1.0):
        scaled.backward(model(x).square().mean() * factor)
        scaled.step(ours)
        ours.zero_grad()
    once(x).square().mean().backward()
    theirs.step()
    assert scaled.scale < 65536, "torch's first scale, halved"
    for one, two in zip(model.parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(one, two)
