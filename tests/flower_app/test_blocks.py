"""Large arrays a piece at a time."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from flower_app.blocks import in_blocks, is_finite

ORDERS = ["C", "F"]


@pytest.mark.parametrize("first", ORDERS)
@pytest.mark.parametrize("second", ORDERS)
def test_pieces_lie_on_the_first_array_and_pair_it_with_the_second(
    monkeypatch: pytest.MonkeyPatch, first: Any, second: Any
) -> None:
    monkeypatch.setattr("flower_app.blocks.BLOCK", 7)
    values = np.arange(31 * 17, dtype=np.float32).reshape(31, 17)
    one, other = np.array(values, order=first), np.array(values, order=second)
    pieces = list(in_blocks(one, other))
    assert [len(each) for each, _ in pieces] == [7] * 75 + [2]
    for piece, pair in pieces:
        assert np.shares_memory(piece, one)
        assert np.shares_memory(pair, other) == (first == second)
        np.testing.assert_array_equal(piece, pair)
        piece += 1
    np.testing.assert_array_equal(one, values + 1)


def test_a_number_is_one_piece_and_nothing_is_none() -> None:
    assert [piece.tolist() for (piece,) in in_blocks(np.array(3.0))] == [[3.0]]
    assert list(in_blocks(np.zeros((0, 4)), np.zeros((0, 4)))) == []


@pytest.mark.parametrize("order", ORDERS)
def test_two_arrays_in_one_order_are_not_copied(order: Any) -> None:
    one, other = (np.ones((1000, 1000), np.float32, order=order) for _ in "ab")
    tracemalloc.start()
    for pieces in in_blocks(one, other):
        assert len(pieces) == 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < one.nbytes / 50


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.ones(5), True),
        (np.full(5, 1.5e308), True),
        (np.full((2, 3), 3e38, np.float32), True),
        (np.array([1, np.nan]), False),
        (np.array([np.inf, -np.inf], np.float16), False),
        (np.asfortranarray([[1.0, 2.0], [-np.inf, 3.0]]), False),
        (np.array(np.nan, np.float32), False),
        (np.zeros(0), True),
        (np.array([2**63 - 1, -5]), True),
        (np.array([True, False]), True),
    ],
)
def test_nan_and_inf_are_found_and_large_numbers_are_neither(values: Any, expected: bool) -> None:
    assert is_finite(values) is expected


def test_looking_for_nan_makes_no_second_array() -> None:
    for values in (np.ones(10**6, np.float32), np.full(10**6, 1e308)):
        tracemalloc.start()
        assert is_finite(values)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < values.nbytes / 10
