"""Which replies may be counted."""

from __future__ import annotations

import gc
import struct
import weakref
from typing import Any

import numpy as np
import pytest
from flower_app.replies import Asked, Refused, facts_of, payload_bytes, read_score, read_update
from flower_app.wire import NotAnArray, to_record, view
from flower_app.workloads.interface import Arrays
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

LIKE: Arrays = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.int64)}
ASKED = Asked(2, "abc")
NODE = 1


def reply(arrays: Any = None, metrics: Any = None, **records: Any) -> Message:
    good: Arrays = {"a": np.ones((2, 3), np.float32), "b": np.array(4)}
    content = {
        "arrays": to_record(good if arrays is None else arrays),
        "metrics": MetricRecord({"num-examples": 7, "train_loss": 0.5} if metrics is None else metrics),
        "answers": ConfigRecord({"round": 2, "model-sha256": "abc"}),
    }
    return Message(RecordDict(content | records), dst_node_id=1, message_type="train")


def test_a_good_reply_is_read_without_a_copy() -> None:
    message = reply()
    update = read_update(message, LIKE, ASKED, NODE)
    assert update.num_examples == 7
    assert update.metrics == {"train_loss": 0.5}
    assert not update.arrays["a"].flags.owndata
    np.testing.assert_array_equal(update.arrays["a"], np.ones((2, 3)))


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"a": np.ones((2, 3), np.float32)}, "arrays differ from the model's: missing ['b'], strange []"),
        ({"a": LIKE["a"], "b": LIKE["b"], "c": LIKE["b"]}, "arrays differ from the model's: missing [], strange ['c']"),
        ({"a": np.ones((3, 2), np.float32), "b": LIKE["b"]}, "array a has shape (3, 2), the model's is (2, 3)"),
        ({"a": np.ones((2, 3)), "b": LIKE["b"]}, "array a has dtype float64, the model's is float32"),
        ({"a": np.full((2, 3), np.nan, np.float32), "b": LIKE["b"]}, "array a holds NaN or Inf"),
        ({"a": np.array([[1, 2, 3], [4, np.inf, 6]], np.float32), "b": LIKE["b"]}, "array a holds NaN or Inf"),
        ({"a": np.array([[-np.inf, 2, 3], [4, np.inf, 6]], np.float32), "b": LIKE["b"]}, "array a holds NaN or Inf"),
    ],
)
def test_arrays_that_do_not_fit_the_model_are_refused(arrays: Any, reason: str) -> None:
    with pytest.raises(Refused) as raised:
        read_update(reply(arrays), LIKE, ASKED, NODE)
    assert str(raised.value) == reason


def test_large_finite_numbers_are_no_infinity() -> None:
    like: Arrays = {"a": np.zeros(4, np.float64)}
    huge = {"a": np.full(4, 1.5e308)}
    assert read_update(reply(huge), like, ASKED, NODE).arrays["a"][0] == 1.5e308


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({}, "num-examples needs to be a whole number from 1 to 1000000000000, is None"),
        ({"num-examples": 0}, "num-examples needs to be a whole number from 1 to 1000000000000, is 0"),
        ({"num-examples": 2**63 - 1}, "is 9223372036854775807"),
        ({"num-examples": 1, "loss": 1.7e308}, "metric loss is not one finite number of at most 1e+100: 1.7e+308"),
        ({"num-examples": -3}, "is -3"),
        ({"num-examples": 2.5}, "is 2.5"),
        ({"num-examples": float("nan")}, "is nan"),
        ({"num-examples": [1, 2]}, "is [1, 2]"),
        ({"num-examples": 1, "loss": float("nan")}, "metric loss is not one finite number of at most 1e+100: nan"),
        ({"num-examples": 1} | {f"m{number}": 1.0 for number in range(200)}, "it has 201 metrics, more than 200"),
        ({"num-examples": 1, "loss": [0.1]}, "metric loss is not one finite number of at most 1e+100: [0.1]"),
    ],
)
def test_metrics_that_cannot_be_counted_are_refused(metrics: Any, reason: str) -> None:
    with pytest.raises(Refused) as raised:
        read_update(reply(metrics=metrics), LIKE, ASKED, NODE)
    assert reason in str(raised.value)


def test_a_whole_number_of_examples_may_come_as_a_float() -> None:
    assert read_update(reply(metrics={"num-examples": 7.0}), LIKE, ASKED, NODE).num_examples == 7


def test_records_are_counted() -> None:
    with pytest.raises(Refused, match="needs one ArrayRecord, has 2"):
        read_update(reply(more=to_record(LIKE)), LIKE, ASKED, NODE)
    with pytest.raises(Refused, match="needs one MetricRecord, has 2"):
        read_update(reply(more=MetricRecord({"x": 1})), LIKE, ASKED, NODE)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({}, "it answers round None, and was asked in round 2"),
        ({"round": 1, "model-sha256": "abc"}, "it answers round 1, and was asked in round 2"),
        ({"round": 2}, "it started from another model: None, asked was abc"),
        ({"round": 2, "model-sha256": "abd"}, "it started from another model: 'abd', asked was abc"),
    ],
)
@pytest.mark.parametrize("read", [read_update, read_score])
def test_a_reply_names_its_round_and_its_model(read: Any, answers: Any, reason: str) -> None:
    with pytest.raises(Refused) as raised:
        read(reply(answers=ConfigRecord(answers)), LIKE, ASKED, NODE)
    assert str(raised.value) == reason


@pytest.mark.parametrize("read", [read_update, read_score])
def test_a_reply_comes_from_the_node_that_was_asked(read: Any) -> None:
    with pytest.raises(Refused, match="it comes from node 1, which was not asked"):
        read(reply(), LIKE, ASKED, 2)


def test_an_update_that_goes_too_far_is_refused() -> None:
    model: Arrays = {"a": np.zeros((2, 3), np.float32), "b": np.array(2)}  # b as BatchNorm's count of batches
    assert read_update(reply(), LIKE, Asked(2, "abc", max_norm=6**0.5 + 1e-6, model=model), NODE).num_examples == 7
    with pytest.raises(Refused, match=r"its difference to the model has norm 2\.44949, more than max-update-norm 2\.4"):
        read_update(reply(), LIKE, Asked(2, "abc", max_norm=2.4, model=model), NODE)


@pytest.mark.parametrize(
    ("of_model", "of_update", "norm"),
    [
        (np.array([2, 250], np.uint8), np.array([250, 2], np.uint8), 248 * 2**0.5),
        (np.array([-(2**62)]), np.array([2**62]), 2.0**63),
        (np.array([True, False]), np.array([False, False]), 1.0),
    ],
)
def test_whole_numbers_that_go_too_far_are_refused_too(of_model: Any, of_update: Any, norm: float) -> None:
    model = {"n": of_model}
    assert read_update(reply({"n": of_update}), model, Asked(2, "abc", norm * (1 + 1e-9)), NODE).num_examples == 7
    with pytest.raises(Refused, match="its difference to the model has norm"):
        read_update(reply({"n": of_update}), model, Asked(2, "abc", norm * (1 - 1e-9)), NODE)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("order_of_model", ["C", "F"])
def test_how_far_an_update_goes_does_not_depend_on_its_order_in_memory(order: Any, order_of_model: Any) -> None:
    drawn = np.random.default_rng(4)
    model = {"a": np.array(drawn.normal(size=(700, 300)), np.float32, order=order_of_model)}
    sent = {"a": np.array(drawn.normal(size=(700, 300)), np.float32, order=order)}
    norm = float(np.linalg.norm(sent["a"].astype(np.float64) - model["a"]))
    assert read_update(reply(sent), model, Asked(2, "abc", norm * (1 + 1e-9), model), NODE).num_examples == 7
    with pytest.raises(Refused, match="its difference to the model has norm"):
        read_update(reply(sent), model, Asked(2, "abc", norm * (1 - 1e-9), model), NODE)


@pytest.mark.parametrize(("loss", "said"), [(None, "None"), (-0.5, "-0.5")])
def test_a_metric_that_the_strategy_computes_with_has_to_be_there(loss: float | None, said: str) -> None:
    asked = Asked(2, "abc", metrics=("train_loss",))
    assert read_update(reply(metrics={"num-examples": 7, "train_loss": 0.0}), LIKE, asked, NODE).metrics == {"train_loss": 0.0}
    with pytest.raises(Refused) as raised:
        read_update(reply(metrics={"num-examples": 7} | ({} if loss is None else {"train_loss": loss})), LIKE, asked, NODE)
    expected = f"the strategy computes with metric train_loss, which needs to be at least 0, is {said}"
    assert str(raised.value) == expected


def test_a_score_brings_numbers_alone() -> None:
    score = read_score(reply(), LIKE, ASKED, NODE)
    assert (score.arrays, score.num_examples, score.metrics) == ({}, 7, {"train_loss": 0.5})


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not npy",
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\x80\x04N."),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9,), }", b"1234"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", b"1234"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), } x", b"1234"),
        npy("{'descr': 7, 'fortran_order': False, 'shape': (1,), }", b"1234"),
        npy("(" * 5000),
        npy("__import__('os').abort()"),
        b"\x93NUMPY\x09\x00" + b"0" * 20,
    ],
)
def test_bytes_that_are_no_plain_array_are_refused(data: bytes) -> None:
    lying = ArrayRecord({"a": Array("float32", (1,), "numpy.ndarray", data), "b": Array(np.array(0))})
    with pytest.raises(NotAnArray):
        view(lying["a"])
    message = Message(RecordDict({**reply().content, "arrays": lying}), dst_node_id=1, message_type="train")
    with pytest.raises(Refused):
        read_update(message, LIKE, ASKED, NODE)


def test_a_claimed_shape_does_not_count() -> None:
    honest = Array(np.ones((3, 2), np.float32))
    lying = Array("float32", (2, 3), honest.stype, honest.data)
    assert view(lying).shape == (3, 2)


def test_fortran_order_and_big_endian_are_read_as_they_are() -> None:
    values = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    np.testing.assert_array_equal(view(Array(values)), values)


def test_facts_and_timings_are_plain_and_short() -> None:
    facts = ConfigRecord({"node_name": "x" * 500, "blob": b"1", "list": [1], "ok": True, "nan": float("nan"), "n": 3})
    timings = ConfigRecord({"train_s": 1.5, "bad": "word", "flag": True, "negative_s": -1.0})
    found, seconds = facts_of(reply(facts=facts, timings=timings))
    assert found == {"node_name": "x" * 100 + "\n…\n" + "x" * 100, "ok": True, "n": 3}
    assert seconds == {"train_s": 1.5}
    many = ConfigRecord({f"fact-{number}": number for number in range(100)})
    assert len(facts_of(reply(facts=many))[0]) == 50


def test_a_reply_that_was_read_is_let_go_without_a_collector() -> None:
    message = reply(facts=ConfigRecord({"node_name": "a"}))
    content = weakref.ref(message.content)
    gc.disable()
    try:
        read_update(message, LIKE, ASKED, NODE)
        read_score(message, LIKE, ASKED, NODE)
        facts_of(message)
        assert payload_bytes(message) > 0
        del message
        assert content() is None
    finally:
        gc.enable()


def test_payload_counts_all_records() -> None:
    small = payload_bytes(reply())
    assert payload_bytes(reply(facts=ConfigRecord({"a": "x" * 1000}))) >= small + 1000
