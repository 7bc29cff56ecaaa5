"""The streaming mean against numpy's, whatever comes in whatever order."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
from flower_app.accumulate import Contribution, HeldUpdates, WeightedMean, staleness_discount
from flower_app.workloads.interface import Arrays
from hypothesis import given, settings
from hypothesis import strategies as st

LIKE: Arrays = {"w": np.zeros((2, 2), np.float32), "h": np.zeros(3, np.float16), "n": np.zeros((), np.int64)}


def update(arrays: Arrays, num_examples: int, weight: float | None = None, node_id: int = 1, **metrics: float) -> Contribution:
    return Contribution(node_id, arrays, num_examples, metrics, num_examples if weight is None else weight)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 10**6)), min_size=1, max_size=6), st.randoms())
def test_it_is_the_weighted_mean_in_any_order(drawn: Any, random: Any) -> None:
    updates = []
    for seed, examples in drawn:
        generator = np.random.default_rng(seed)
        arrays: Arrays = {
            "w": generator.normal(size=(2, 2)).astype(np.float32),
            "h": generator.normal(size=3).astype(np.float16),
            "n": np.array(generator.integers(0, 100)),
        }
        updates.append((arrays, examples))
    results = []
    for _ in range(2):
        mean = WeightedMean(LIKE)
        for arrays, examples in updates:
            mean.add(update(arrays, examples, loss=float(arrays["n"])))
        results.append(mean.hand_over())
        random.shuffle(updates)
    weights = [examples for _, examples in updates]
    assert mean.num_examples == sum(weights)
    assert mean.count == len(updates)
    for name, like in LIKE.items():
        expected = np.average([arrays[name].astype(np.float64) for arrays, _ in updates], axis=0, weights=weights)
        assert results[0][name].dtype == like.dtype
        tolerance = {"w": 1e-6, "h": 1e-3, "n": 0.5001}[name]
        np.testing.assert_allclose(results[0][name], expected, atol=tolerance, rtol=tolerance)
    np.testing.assert_array_equal(results[0]["w"], results[1]["w"])
    expected_loss = np.average([float(arrays["n"]) for arrays, _ in updates], weights=weights)
    assert mean.metrics()["loss"] == pytest.approx(expected_loss)


def test_what_was_added_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    mean = WeightedMean({"w": np.zeros(2, np.float32)})
    arrays = {"w": np.ones(2, np.float32)}
    mean.add(update(arrays, 3))
    arrays["w"][:] = 99
    np.testing.assert_array_equal(mean.hand_over()["w"], [1, 1])


def test_large_models_are_summed_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower_app.accumulate.DOUBLE_UP_TO_BYTES", 7)
    mean = WeightedMean({"w": np.zeros(2, np.float32)})
    mean.add(update({"w": np.array([1, 2], np.float32)}, 10))
    mean.add(update({"w": np.array([3, 6], np.float32)}, 30))
    total = mean._totals["w"]
    assert total.dtype == np.float32
    made = mean.hand_over()["w"]
    np.testing.assert_allclose(made, [2.5, 5.0])
    assert made is total  # no second model
    assert (mean.count, mean.num_examples) == (2, 40)


def test_a_metric_that_one_node_leaves_out_is_the_mean_of_the_others() -> None:
    mean = WeightedMean({})
    mean.add(update({}, 1, loss=1.0, rare=4.0))
    mean.add(update({}, 3, loss=2.0))
    assert mean.metrics() == {"loss": 1.75, "rare": 4.0}


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_model_of_many_blocks_is_added_whole_by_several_threads(monkeypatch: pytest.MonkeyPatch, order: Any) -> None:
    monkeypatch.setattr("flower_app.blocks.BLOCK", 7)
    like: Arrays = {"w": np.zeros((31, 17), np.float32), "b": np.zeros(5, np.float32), "n": np.zeros((), np.int64)}
    drawn = np.random.default_rng(3)
    models = [
        {name: np.array(drawn.normal(size=each.shape), each.dtype, order=order) for name, each in like.items()} for _ in "ab"
    ]
    mean = WeightedMean(like)
    for model, examples in zip(models, (3, 5), strict=True):
        mean.add(update(model, examples))
    made = mean.hand_over()
    for name in ("w", "b"):
        expected = np.average([model[name] for model in models], axis=0, weights=[3, 5])
        np.testing.assert_allclose(made[name], expected, rtol=1e-6)


def test_a_stale_update_weighs_less_and_is_counted_whole() -> None:
    mean = WeightedMean({"w": np.zeros(1, np.float32)})
    mean.add(update({"w": np.array([0.0], np.float32)}, 10, loss=0.0))
    mean.add(update({"w": np.array([3.0], np.float32)}, 10, 10 * staleness_discount(3, 0.5), loss=3.0))
    assert staleness_discount(0, 0.5) == 1
    assert staleness_discount(3, 0.5) == 0.5
    assert (mean.num_examples, mean.count) == (20, 2)
    np.testing.assert_allclose(mean.hand_over()["w"], [1.0])
    assert mean.metrics()["loss"] == pytest.approx(1.0)


def test_held_updates_come_in_the_order_of_their_nodes() -> None:
    held = HeldUpdates()
    for node_id in (9, 2, 5):
        held.add(update({}, node_id, node_id=node_id, loss=float(node_id)))
    assert [each.node_id for each in held.hand_over()] == [2, 5, 9]
    assert (held.count, held.num_examples) == (3, 16)
    assert held.metrics()["loss"] == pytest.approx((4 + 25 + 81) / 16)


def test_a_held_update_that_was_handed_over_is_held_no_more() -> None:
    held = HeldUpdates()
    drawn = {node_id: np.ones(3) for node_id in (1, 2)}
    alive = weakref.ref(drawn[1])
    for node_id, values in drawn.items():
        held.add(update({"w": values}, 1, node_id=node_id))
    del drawn, values
    handed = held.hand_over()
    first = next(handed)
    assert alive() is first.arrays["w"]
    del first
    assert alive() is None
    assert next(handed).node_id == 2
