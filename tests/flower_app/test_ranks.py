"""Factors that come in a smaller rank than the model's, and those that may not be counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flower_app.accumulate import Contribution
from flower_app.products import NoProduct, ProductMean, in_full_rank, see_that_they_are_factors
from flower_app.replies import Asked, Refused, payload_bytes, read_update
from flower_app.wire import to_record
from flower_app.workloads.interface import Arrays
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

PRODUCTS = [("b", "a")]
ASKED = Asked(2, "abc", products=PRODUCTS)
LIKE: Arrays = {"head": np.zeros(2, np.float32), "b": np.zeros((6, 4), np.float32), "a": np.zeros((4, 5), np.float32)}


def reply(arrays: Arrays) -> Message:
    content: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
        "arrays": to_record(arrays),
        "metrics": MetricRecord({"num-examples": 7}),
        "answers": ConfigRecord({"round": 2, "model-sha256": "abc"}),
    }
    return Message(RecordDict(content), dst_node_id=1, message_type="train")


def factors(outputs: int, rank_of_b: int, rank_of_a: int, inputs: int, dtype: Any = np.float32) -> Arrays:
    numbers = np.random.default_rng(7)
    b, a = numbers.normal(size=(outputs, rank_of_b)), numbers.normal(size=(rank_of_a, inputs))
    return {"head": np.ones(2, np.float32), "b": b.astype(dtype), "a": a.astype(dtype)}


def test_a_smaller_rank_is_filled_up_with_zeros_and_counts_as_sent() -> None:
    small, whole = factors(6, 2, 2, 5), factors(6, 4, 4, 5)
    read = read_update(reply(small), LIKE, ASKED, 1).arrays
    np.testing.assert_array_equal(read["b"], np.pad(small["b"], ((0, 0), (0, 2))))
    np.testing.assert_array_equal(read["a"], np.pad(small["a"], ((0, 2), (0, 0))))
    assert list(read) == list(LIKE)
    assert payload_bytes(reply(small)) < payload_bytes(reply(whole)) - 80
    untouched = read_update(reply(whole), LIKE, ASKED, 1).arrays
    assert not untouched["b"].flags.owndata  # no copy where there is nothing to fill up


def test_mixed_ranks_make_the_model_of_updates_filled_up_by_hand() -> None:
    by_hand, as_sent = ProductMean(LIKE, PRODUCTS), ProductMean(LIKE, PRODUCTS)
    for node_id, rank in enumerate((1, 2, 4)):
        sent = factors(6, rank, rank, 5)
        filled = {"head": sent["head"], "b": np.zeros((6, 4), np.float32), "a": np.zeros((4, 5), np.float32)}
        filled["b"][:, :rank], filled["a"][:rank] = sent["b"], sent["a"]
        by_hand.add(Contribution(node_id, filled, 10, {}, 10.0))
        as_sent.add(Contribution(node_id, read_update(reply(sent), LIKE, ASKED, 1).arrays, 10, {}, 10.0))
    one, other = by_hand.hand_over(), as_sent.hand_over()
    assert all(one[name].tobytes() == other[name].tobytes() for name in LIKE)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (factors(6, 5, 5, 5), "arrays b and a have rank 5, the model takes 1 to 4"),
        (factors(6, 0, 0, 5), "arrays b and a have rank 0, the model takes 1 to 4"),
        (factors(6, 2, 3, 5), "array b has rank 2, and array a has rank 3"),
        (factors(6, 4, 2, 5), "array b has rank 4, and array a has rank 2"),
        (factors(7, 2, 2, 5), "array b has 7 outputs, the model's has 6"),
        (factors(6, 2, 2, 4), "array a has 4 inputs, the model's has 5"),
        (factors(6, 2, 2, 5, np.float64), "array b has shape (6, 2), the model's is (6, 4)"),
        ({**factors(6, 2, 2, 5), "b": np.ones((6, 2, 1), np.float32)}, "array b has shape (6, 2, 1), the model's is (6, 4)"),
        ({**factors(6, 2, 2, 5), "head": np.ones(1, np.float32)}, "array head has shape (1,), the model's is (2,)"),
        ({**factors(6, 2, 2, 5), "a": np.full((2, 5), np.nan, np.float32)}, "array a holds NaN or Inf"),
        (
            {name: values for name, values in factors(6, 2, 2, 5).items() if name != "a"},
            "arrays differ from the model's: missing ['a'], strange []",
        ),
    ],
)
def test_factors_that_do_not_fit_the_model_are_refused(arrays: Arrays, sentence: str) -> None:
    with pytest.raises(Refused) as raised:
        read_update(reply(arrays), LIKE, ASKED, 1)
    assert str(raised.value) == sentence


def test_a_smaller_rank_is_refused_where_factors_are_averaged_apart() -> None:
    with pytest.raises(Refused, match=r"array b has shape \(6, 2\), the model's is \(6, 4\)"):
        read_update(reply(factors(6, 2, 2, 5)), LIKE, Asked(2, "abc"), 1)


def test_how_far_an_update_of_a_smaller_rank_goes_counts_what_it_left_out() -> None:
    like = {**LIKE, "a": np.repeat(np.array([0, 0, 0, 10], np.float32), 5).reshape(4, 5)}
    sent = factors(6, 2, 2, 5)
    filled = in_full_rank(sent, like, PRODUCTS)
    norm = float(np.sqrt(sum(np.sum((filled[name].astype(np.float64) - like[name]) ** 2) for name in like)))
    assert norm > 20
    read_update(reply(sent), like, Asked(2, "abc", norm * (1 + 1e-9), products=PRODUCTS), 1)
    with pytest.raises(Refused, match="its difference to the model has norm"):
        read_update(reply(sent), like, Asked(2, "abc", norm * (1 - 1e-9), products=PRODUCTS), 1)


@pytest.mark.parametrize(
    ("products", "sentence"),
    [
        ([("b", "c")], "products() names c, which the model has not"),
        ([("b", "a"), ("b", "a")], "products() names b, which stands twice"),
        ([("b", "b")], "products() names b, which stands twice"),
        (
            [("a", "b")],
            "products() needs floats of shapes (outputs, rank) and (rank, inputs), names a float32 (4, 5) and b float32 (6, 4)",
        ),
        (
            [("b", "n")],
            "products() needs floats of shapes (outputs, rank) and (rank, inputs), names b float32 (6, 4) and n int64 (4, 5)",
        ),
        (
            [("head", "a")],
            "products() needs floats of shapes (outputs, rank) and (rank, inputs), names head float32 (2,) and a float32 (4, 5)",
        ),
    ],
)
def test_what_a_workload_calls_products_has_to_be_factors(products: Any, sentence: str) -> None:
    like = {**LIKE, "n": np.zeros((4, 5), np.int64)}
    see_that_they_are_factors(PRODUCTS, like)
    with pytest.raises(NoProduct) as raised:
        see_that_they_are_factors(products, like)
    assert str(raised.value) == sentence
