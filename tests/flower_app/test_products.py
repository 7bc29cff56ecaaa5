"""The mean of products as factors, against numpy's dense singular values; and what it holds in memory."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from flower_app.accumulate import Contribution, WeightedMean, staleness_discount
from flower_app.config import RunConfig
from flower_app.limits import UpdatesDoNotFit, bytes_of_products, most_that_fit, see_that_updates_fit
from flower_app.products import ProductMean, nearest_factors
from flower_app.rules import rule_of
from flower_app.strategies import ModelNotFinite, StrategyDriver
from flower_app.workloads.interface import Arrays
from hypothesis import given, settings
from hypothesis import strategies as st

PRODUCTS = [("b", "a")]


def model(outputs: int, rank: int, inputs: int, dtype: Any = np.float64) -> Arrays:
    return {"head": np.zeros(2, dtype), "b": np.zeros((outputs, rank), dtype), "a": np.zeros((rank, inputs), dtype)}


def drawn(like: Arrays, count: int, seed: int = 0, own_rank: int = 10**6) -> list[Contribution]:
    """Draw updates of any weights; own_rank: how many columns of B and rows of A are not zero."""
    numbers = np.random.default_rng(seed)
    updates = []
    for node_id in range(1, count + 1):
        arrays = {name: numbers.normal(size=values.shape).astype(values.dtype) for name, values in like.items()}
        arrays["b"][:, own_rank:] = arrays["a"][own_rank:] = 0
        examples = int(numbers.integers(1, 1000))
        updates.append(Contribution(node_id, arrays, examples, {}, examples * numbers.choice([1.0, staleness_discount(1, 0.5)])))
    return updates


def mean_of(updates: list[Contribution], like: Arrays) -> Arrays:
    mean = ProductMean(like, PRODUCTS)
    for update in updates:
        mean.add(update)
    return mean.hand_over()


def dense_mean(updates: list[Contribution]) -> Any:
    products = [update.arrays["b"].astype(np.float64) @ update.arrays["a"].astype(np.float64) for update in updates]
    return np.average(products, axis=0, weights=[update.weight for update in updates])


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 6), st.integers(1, 12)),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
    st.randoms(),
)
def test_it_is_the_nearest_product_of_its_rank_in_any_order(shape: Any, count: int, own: int, seed: int, random: Any) -> None:
    like = model(*shape)
    updates = drawn(like, count, seed, own)
    made = mean_of(updates, like)
    dense, rank = dense_mean(updates), shape[1]
    singular = np.linalg.svd(dense, compute_uv=False)
    nearest, distance = np.sqrt(np.sum(singular[rank:] ** 2)), np.linalg.norm(made["b"] @ made["a"] - dense)
    assert distance == pytest.approx(nearest, abs=1e-12 * max(singular[0], 1.0), rel=1e-9)
    assert {name: values.shape for name, values in made.items()} == {name: values.shape for name, values in like.items()}
    weights = [update.weight for update in updates]
    head = np.average([update.arrays["head"] for update in updates], axis=0, weights=weights)
    np.testing.assert_allclose(made["head"], head, atol=1e-12)
    random.shuffle(updates)
    again = mean_of(updates, like)
    assert all(again[name].tobytes() == made[name].tobytes() for name in ("b", "a"))


def test_a_mean_that_fits_into_the_rank_is_exact() -> None:
    like = model(40, 12, 30)
    updates = drawn(like, 3, own_rank=4)
    made = mean_of(updates, like)
    np.testing.assert_allclose(made["b"] @ made["a"], dense_mean(updates), atol=1e-12)
    singular = np.linalg.svd(dense_mean(updates), compute_uv=False)[:12]
    np.testing.assert_allclose(made["b"].T @ made["b"], np.diag(singular), atol=1e-10)  # B = U sqrt(S), A = sqrt(S) V^T
    np.testing.assert_allclose(made["a"] @ made["a"].T, np.diag(singular), atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float16, 1e-2), (np.float32, 1e-6)])
def test_what_it_makes_has_the_models_dtype(dtype: Any, tolerance: float) -> None:
    like = model(20, 4, 15, dtype)
    updates = drawn(like, 1)
    made = mean_of(updates, like)
    assert {values.dtype for values in made.values()} == {np.dtype(dtype)}
    product = made["b"].astype(np.float64) @ made["a"].astype(np.float64)
    np.testing.assert_allclose(product, dense_mean(updates), atol=tolerance * 20)


def test_the_mean_of_equal_updates_is_what_they_are() -> None:
    like = model(20, 4, 15, np.float32)
    (update,) = drawn(like, 1)
    made = mean_of([Contribution(node, update.arrays, 10, {}, 10.0) for node in range(5)], like)
    np.testing.assert_allclose(made["b"] @ made["a"], update.arrays["b"] @ update.arrays["a"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 4, 15), (3, 5, 2), (4, 4, 4)])
def test_factors_of_nothing_make_nothing_and_can_still_be_trained(shape: tuple[int, int, int]) -> None:
    like = model(*shape, np.float32)
    updates = drawn(like, 3)
    for update in updates:
        update.arrays["b"][:] = 0
    made = mean_of(updates, like)
    assert not made["b"].any()
    assert np.isfinite(made["a"]).all()
    assert np.linalg.matrix_rank(made["a"]) == min(shape[1:])  # where A's row and B's column are 0, so are both gradients


def test_a_part_of_the_rank_that_the_sites_left_out_can_still_be_trained() -> None:
    like = model(20, 6, 15, np.float32)
    updates = drawn(like, 2, own_rank=2)
    made = mean_of(updates, like)
    assert not made["b"][:, 4:].any()
    lengths = np.linalg.norm(made["a"], axis=1)
    weights = [update.weight for update in updates]
    squares = np.average([np.sum(update.arrays["a"] ** 2) for update in updates], weights=weights)
    np.testing.assert_allclose(lengths[4:], np.sqrt(squares / 6), rtol=1e-5)
    assert np.linalg.matrix_rank(made["a"]) == 6


def test_its_error_is_smaller_than_that_of_averaging_the_factors_apart() -> None:
    like = model(60, 8, 50)
    updates = drawn(like, 4)
    dense, made, apart = dense_mean(updates), mean_of(updates, like), WeightedMean(like)
    for update in updates:
        apart.add(update)
    averaged = apart.hand_over()
    errors = [np.linalg.norm(each["b"] @ each["a"] - dense) / np.linalg.norm(dense) for each in (made, averaged)]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.filterwarnings("error")
def test_factors_whose_product_leaves_the_range_of_numbers_make_no_model() -> None:
    like = model(4, 2, 3)
    driver = StrategyDriver(RunConfig.parse({}))
    mean = driver.gathering(like, PRODUCTS)
    arrays = {name: np.full(values.shape, 1e200) for name, values in like.items()}
    mean.add(Contribution(1, arrays, 1, {}, 1.0))
    with pytest.raises(ModelNotFinite, match="made NaN or Inf in array"):
        driver.aggregate(1, mean, like)


def test_nothing_of_the_products_own_shape_is_made() -> None:
    numbers = np.random.default_rng(0)
    b, a = numbers.normal(size=(3000, 8)), numbers.normal(size=(8, 3000))
    tracemalloc.start()
    nearest_factors(b, a, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * (b.nbytes + a.nbytes)  # a hundredth of 3000 x 3000


@pytest.mark.parametrize("shape", [(600, 8, 600), (600, 8, 60), (60, 8, 600), (100, 16, 100)])
@pytest.mark.parametrize("count", [2, 6, 20])
@pytest.mark.parametrize("pairs", [1, 6])
def test_what_is_counted_is_what_it_takes(shape: tuple[int, int, int], count: int, pairs: int) -> None:
    outputs, rank, inputs = shape
    like: Arrays = {"head": np.zeros(5, np.float32)}
    for number in range(pairs):
        like |= {f"b{number}": np.zeros((outputs, rank), np.float32), f"a{number}": np.zeros((rank, inputs), np.float32)}
    tiny = {"b0": np.zeros((2, 1), np.float32), "a0": np.zeros((1, 2), np.float32)}
    apart = peak_of(tiny, 1, 1)  # asking which libraries are loaded takes more, the more there are
    counted = bytes_of_products([(f"b{number}", f"a{number}") for number in range(pairs)], like, count)
    assert 0.3 * counted < peak_of(like, pairs, count) < 1.05 * counted + apart + 150_000


def peak_of(like: Arrays, pairs: int, count: int) -> int:
    """Give what a mean of so many updates takes at its peak, without the model that is made."""
    numbers = np.random.default_rng(1)
    tracemalloc.start()
    mean = ProductMean(like, [(f"b{number}", f"a{number}") for number in range(pairs)])
    for node_id in range(count):
        arrays = {name: numbers.normal(size=values.shape).astype(np.float32) for name, values in like.items()}
        mean.add(Contribution(node_id, arrays, 10, {}, 10.0))
    del arrays
    tracemalloc.reset_peak()
    mean.hand_over()
    peak = tracemalloc.get_traced_memory()[1] - sum(values.nbytes for values in like.values())
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    ("config", "needed_mb", "sentence"),
    [
        (
            {},
            45,
            "lora-aggregation = svd holds the factors of all updates of a round and works on copies of them, 45 MB here, and "
            "9 MB may be used: lower k-of-n or min-available, raise server-memory-limit-mb, or choose lora-aggregation = avg or "
            "ffa",
        ),
        (
            {"late": "carry", "k-of-n": 3},
            47,
            "late = carry may have to hold 2 late updates, and lora-aggregation = svd holds the factors of all updates of a "
            "round and works on copies of them, 47 MB here, and 9 MB may be used: raise k-of-n or server-memory-limit-mb, lower "
            "min-available, or choose late = drop or lora-aggregation = avg or ffa",
        ),
    ],
)
def test_factors_that_do_not_fit_are_refused_and_fewer_nodes_asked(config: Any, needed_mb: int, sentence: str) -> None:
    like: Arrays = {"b": np.zeros((2500, 50), np.float32), "a": np.zeros((50, 2500), np.float32)}  # 1 MB
    given = {"min-available": 5, **config}
    tight = RunConfig.parse({**given, "server-memory-limit-mb": 9})
    rule = rule_of(tight)
    with pytest.raises(UpdatesDoNotFit) as raised:
        see_that_updates_fit(tight, rule, like, 5, PRODUCTS)
    assert str(raised.value) == sentence
    assert most_that_fit(tight, rule, like, 5, PRODUCTS) == 1
    enough = RunConfig.parse({**given, "server-memory-limit-mb": needed_mb})
    see_that_updates_fit(enough, rule, like, 5, PRODUCTS)
    assert most_that_fit(enough, rule, like, 6, PRODUCTS) == 5
    see_that_updates_fit(tight, rule, like, 5)  # without products as before


def test_with_k_of_n_the_factors_of_k_updates_are_counted() -> None:
    like: Arrays = {"b": np.zeros((2500, 50), np.float32), "a": np.zeros((50, 2500), np.float32)}
    for k_of_n, limit_mb in itertools.product((1, 3), (9, 27)):
        config = RunConfig.parse({"k-of-n": k_of_n, "server-memory-limit-mb": limit_mb})
        assert most_that_fit(config, rule_of(config), like, 9, PRODUCTS) == (9 if limit_mb == 9 * k_of_n or limit_mb == 27 else 1)
