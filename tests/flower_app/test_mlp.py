"""The numpy network gives what torch gives."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from flower_app.config import ConfigError
from flower_app.workloads import mlp, training
from flower_app.workloads.guards import DataUnfit
from flower_app.workloads.partition import Examples
from torch import nn


def network(sizes: tuple[int, ...]) -> nn.Sequential:
    layers = [part for pair in itertools.pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def examples(features: int, classes: int, count: int = 50) -> Examples:
    random = np.random.default_rng(3)
    return Examples(random.normal(size=(count, features)).astype(np.float32), random.integers(0, classes, count))


@pytest.mark.parametrize("sizes", [(4, 2), (30, 16, 2), (64, 32, 10), (7, 9, 5, 3)])
def test_a_network_scores_as_torch_scores_it(sizes: tuple[int, ...]) -> None:
    arrays, some = mlp.first_arrays(sizes, 1), examples(sizes[0], sizes[-1])
    theirs = training.score(training.load(network(sizes), arrays), some)
    ours = mlp.score(arrays, some)
    assert ours == {name: pytest.approx(value, rel=1e-5) for name, value in theirs.items()}


def test_the_first_weights_are_torchs_in_name_shape_and_reach_and_the_seeds_alone() -> None:
    sizes = (64, 32, 10)
    arrays, theirs = mlp.first_arrays(sizes, 1), training.arrays_of(network(sizes))
    assert [(name, values.shape, values.dtype) for name, values in arrays.items()] == [
        (name, values.shape, values.dtype) for name, values in theirs.items()
    ]
    for name, values in theirs.items():
        reach = 1 / np.sqrt(64 if name.startswith("0") else 32)
        assert abs(arrays[name]).max() == pytest.approx(reach, rel=0.3)
        assert abs(values).max() <= reach
        assert abs(arrays[name]).max() <= reach
        assert np.array_equal(arrays[name], mlp.first_arrays(sizes, 1)[name])
        assert not np.array_equal(arrays[name], mlp.first_arrays(sizes, 2)[name])


def test_one_output_is_propellers_logistic_regression() -> None:
    arrays, some = mlp.first_arrays((5, 1), 1), examples(5, 2)
    assert {name: values.shape for name, values in arrays.items()} == {"w": (5,), "b": ()}
    assert mlp.score(arrays, some)["loss"] == pytest.approx(np.log(2))
    arrays = {"w": np.array([1, -2, 0, 3, 0.5], np.float32), "b": np.array(0.25, np.float32)}
    margins = torch.from_numpy(some.x @ arrays["w"] + arrays["b"])
    told = nn.functional.binary_cross_entropy_with_logits(margins, torch.from_numpy(some.labels).float())
    scores = mlp.score(arrays, some)
    assert scores["loss"] == pytest.approx(told.item(), rel=1e-5)
    assert scores["accuracy"] == ((margins > 0).numpy() == some.labels).mean()
    assert 0 < scores["auc"] < 1


def test_an_answer_that_is_far_off_costs_a_finite_loss() -> None:
    arrays = {"0.weight": np.array([[1e4], [-1e4]], np.float32), "0.bias": np.zeros(2, np.float32)}
    some = Examples(np.ones((1, 1), np.float32), np.array([1]))
    assert mlp.score(arrays, some)["loss"] == pytest.approx(2e4)


def test_weights_beyond_all_answers_have_no_score() -> None:
    arrays = {name: np.full_like(values, 3e38) for name, values in mlp.first_arrays((4, 5, 2), 1).items()}
    assert mlp.score(arrays, examples(4, 2)) == {}


@pytest.mark.parametrize("text", ["100000-100000-10", "10000000-99999999-2"])
def test_layers_that_nobody_could_hold_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"layers '{text}' has [0-9,]+ weights, and at most 100,000,000 are trained"):
        mlp.parse_layers(text)


@pytest.mark.parametrize("text", ["", "9" * 50 + "-2", "64", "64-", "64-0-10", "64-x-10", "-64-10", "64-32-10-", "6٤-2", "1.5-2"])
def test_layers_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"layers needs features, hidden sizes and classes as in 64-32-10, got {text!r}"):
        mlp.parse_layers(text)


def test_layers_are_read() -> None:
    assert mlp.parse_layers("64-32-10") == (64, 32, 10)
    assert mlp.parse_layers("30-1") == (30, 1)
    with pytest.raises(ConfigError, match="'30-8-1' has one output: a network needs one for each class, at least 2"):
        mlp.parse_layers("30-8-1")


def test_examples_that_do_not_fit_are_told_with_the_node() -> None:
    north = 'node "north"'
    mlp.check_fit((4, 3), examples(4, 3), north)
    told = re.escape('node "north": an example has the shape (5,), and layers begins with 4')
    with pytest.raises(DataUnfit, match=told):
        mlp.check_fit((4, 3), examples(5, 3), north)
    with pytest.raises(DataUnfit, match='node "north": label 2 needs 3 outputs, and the model has 2'):
        mlp.check_fit((4, 1), examples(4, 3), north)
