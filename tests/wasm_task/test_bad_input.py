"""What the guest for fl/1 is given may be anything: it says in a sentence what is wrong, and never traps."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from flower_app.workloads.wasm.task import Task
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.wasm_task.guest import called, config_of, packed, task

GIVEN = task()
X, Y = GIVEN.x, GIVEN.labels
MODEL, DATA, CONFIG = packed(GIVEN.arrays), packed({"x": X, "y": Y}), config_of()
WEIGHT, BIAS = np.ones((3, 5), np.float32), np.ones(3, np.float32)
NO_NUMBERS = "the hyperparameters are no JSON object of numbers"
NO_JSON = "the model: the header is no JSON object of tensors"
LACKS = "the model: tensor a lacks a dtype, a shape or data_offsets"
NOT_FINITE = "example 17 holds what is no finite number"
ODD = b'0123456789-+.eE"\\[]{},: \x00\xff'
SIZE = "the model: tensor a has 12 bytes, which is not what its shape needs"
HEADER = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}


def fault(config: bytes = CONFIG, model: bytes = MODEL, data: bytes = DATA, most_bytes: int = 64 << 20) -> str:
    """Give the sentence, of a report that has nothing else."""
    report, _ = called(config, model, data, most_bytes)
    assert list(report) == ["error"]
    return str(report["error"])


def blob(header: object, content: bytes = bytes(12)) -> bytes:
    """Write tensors with a header that may be anything."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content


def changed(place: int, value: float) -> NDArray[np.float32]:
    """Give the first weights with another value in one place."""
    values = WEIGHT.copy()
    values.flat[place] = value
    return values


def test_good_input_is_none_of_these() -> None:
    report, model = called(CONFIG, MODEL, DATA)
    assert report["steps"] == 3
    assert model != MODEL
    assert len(model) == len(MODEL)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (b"", NO_NUMBERS),
        (b"[]", NO_NUMBERS),
        (CONFIG[:-1], NO_NUMBERS),
        (CONFIG + b"}", NO_NUMBERS),
        (CONFIG.replace(b"1,", b"01,", 1), NO_NUMBERS),
        (CONFIG.replace(b'"lr": 0.1', b'"lr": .1'), NO_NUMBERS),
        (CONFIG.replace(b'"lr": 0.1', b'"lr": NaN'), NO_NUMBERS),
        (config_of(lr="0.1"), NO_NUMBERS),
        (config_of(lr=None), NO_NUMBERS),
        (config_of(optimizer=1), "the hyperparameters have a key that is not known: optimizer"),
        (b'{"epochs":1}', "the hyperparameters have no steps"),
        (CONFIG.replace(b'"lr": 0.1', b'"lr": 1e999'), "lr needs to be a number from 0 to 3.40282347e38, got infinity"),
        (config_of(lr=1e39), "lr needs to be a number from 0 to 3.40282347e38, got 1e39"),
        (config_of(lr=-0.25), "lr needs to be a number from 0 to 3.40282347e38, got -0.25"),
        (config_of(momentum=1.5), "momentum needs to be a number from 0 to 1, got 1.5"),
        (config_of(weight_decay=-1), "weight_decay needs to be a number from 0 to 3.40282347e38, got -1"),
        (config_of(proximal_mu=-1), "proximal_mu needs to be a number from 0 to 3.40282347e38, got -1"),
        (config_of(batch_size=0), "batch_size needs to be a whole number from 1 to 9007199254740991, got 0"),
        (config_of(batch_size=2.5), "batch_size needs to be a whole number from 1 to 9007199254740991, got 2.5"),
        (config_of(epochs=-1), "epochs needs to be a whole number from 0 to 9007199254740991, got -1"),
        (config_of(steps=2**54), "steps needs to be a whole number from 0 to 9007199254740991, got 1.80143985e16"),
        (config_of(seed=2**53), "seed needs to be a whole number from 0 to 9007199254740991, got 9.00719925e15"),
        (config_of(epochs=0), "epochs and steps are both 0: one of them needs to be at least 1"),
    ],
)  # fmt: skip
def test_hyperparameters_that_are_none_are_named(config: bytes, sentence: str) -> None:
    assert fault(config=config) == sentence


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (b"", "the model: the header is longer than the 0 bytes that there are"),
        (bytes([255] * 8), "the model: the header is longer than the 8 bytes that there are"),
        (blob(b"{"), NO_JSON),
        (blob([]), NO_JSON),
        (blob(b"3"), NO_JSON),
        (blob({"a": 3}), NO_JSON),
        (blob(b"[" * 100), NO_JSON),
        (blob({"a": {"deep": [[[[[]]]]]}}), LACKS),
        (blob({"a": HEADER | {"dtype": "F64"}}), "tensor a of the model is F64, and needs to be F32"),
        (blob({"a": HEADER | {"shape": []}}), SIZE),
        (blob({"a": HEADER | {"shape": [2**32, 2**32]}}), SIZE),
        (blob({"a": HEADER | {"shape": [2**31, 2**31, 4, 0]}}), SIZE),
        (blob({"a": HEADER | {"shape": [-3]}}), SIZE),
        (blob({"a": HEADER | {"shape": [3.5]}}), SIZE),
        (blob({"a": HEADER | {"data_offsets": [0]}}), LACKS),
        (blob({"a": HEADER | {"data_offsets": [4, 16]}}),
         "the model: tensor a does not begin where the one before it ends, at 0"),
        (blob({"a": HEADER | {"data_offsets": [0, 1e300]}}), LACKS),
        (blob({"a": HEADER}, bytes(8)), "the model: tensor a ends beyond the 8 bytes that there are"),
        (blob({"a": HEADER}, bytes(16)), "the model: 4 bytes follow the last tensor"),
        (blob({"a": HEADER, "b": HEADER}, bytes(24)), "the model: tensor b does not begin where the one before it ends, at 12"),
        ((len(b := json.dumps({"a": HEADER}).encode()) + (-len(b) - 3) % 8 + 4).to_bytes(8, "little") + b
         + b" " * ((-len(b) - 3) % 8 + 4) + bytes(12), "the model: tensor a does not begin on a multiple of 4 bytes"),
        (blob({"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, bytes(4)), "tensor a of the model has no dimension"),
        (packed({}), "the model has no layer"),
        (packed({"w": WEIGHT}), "array w is no .weight and no .bias of a linear layer"),
        (packed({".weight": WEIGHT}), "array .weight is no .weight and no .bias of a linear layer"),
        (packed({"0.weight": WEIGHT}), "array 0.weight has no .bias beside it"),
        (packed({"0.bias": BIAS}), "array 0.bias has no .weight beside it"),
        (packed({"0.weight": WEIGHT, "0.bias": BIAS}).replace(b"bias", b"bia\x7f"),
         "array 0.weight has no .bias beside it"),
        (packed({"0.weight": WEIGHT, "0.bias": BIAS, "1.weight": WEIGHT}).replace(b'"1.w', b'"0.w'),
         "two arrays are named 0.weight"),
        (packed({"0.weight": WEIGHT, "0.bias": BIAS, "1.bias": BIAS}).replace(b'"1.b', b'"0.b'), "two arrays are named 0.bias"),
        (packed({"0.weight": WEIGHT[0], "0.bias": BIAS}), "array 0.weight has 1 dimensions, and needs 2"),
        (packed({"0.weight": WEIGHT, "0.bias": WEIGHT}), "array 0.bias has 2 dimensions, and needs 1"),
        (packed({"0.weight": WEIGHT, "0.bias": BIAS[:2]}), "layer 0 has 3 rows of weights, and 2 biases"),
        (packed({"0.weight": WEIGHT[:0], "0.bias": BIAS[:0]}), "layer 0 is empty"),
        (packed({"0.weight": WEIGHT, "0.bias": BIAS, "head.weight": WEIGHT, "head.bias": BIAS}),
         "layer head takes 5 values, and layer 0 before it gives 3"),
        (packed({"0.weight": WEIGHT[:1], "0.bias": BIAS[:1]}), "the last layer, 0, has 1 output, and needs one for each class"),
        (packed({"0.weight": WEIGHT[:, :4].copy(), "0.bias": BIAS}), "an example has 5 features, and layer 0 takes 4"),
        (packed({"0.weight": WEIGHT[:2], "0.bias": BIAS[:2]}), f"label 2 of example {list(Y).index(2)} is none of 0 to 1"),
        (packed({"0.weight": changed(7, np.nan), "0.bias": BIAS}), "layer 0 arrived with what is no finite number"),
        (packed({"0.weight": WEIGHT, "0.bias": BIAS * np.float32(np.inf)}), "layer 0 arrived with what is no finite number"),
        (packed({"é" * 99 + ".bias": BIAS}), "array " + "\\u00e9" * 16 + "\\u00... has no .weight beside it"),
    ],
)  # fmt: skip
def test_a_model_that_is_no_chain_of_layers_is_told(model: bytes, sentence: str) -> None:
    assert fault(model=model) == sentence


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the data: the header is longer than the 0 bytes that there are"),
        (packed({"y": Y}), "the data need x, F32 of 2 dimensions"),
        (packed({"x": X.astype(np.float64), "y": Y}), "the data need x, F32 of 2 dimensions"),
        (packed({"x": X[0], "y": Y}), "the data need x, F32 of 2 dimensions"),
        (packed({"x": X}), "the data need y, I32 of 1 dimension"),
        (packed({"x": X, "y": Y.astype(np.int64)}), "the data need y, I32 of 1 dimension"),
        (packed({"x": X, "y": Y[:19]}), "there are 20 examples in x, and 19 labels in y"),
        (packed({"x": X[:0], "y": Y[:0]}), "there is no example to train on"),
        (packed({"x": X[:, :0], "y": Y}), "an example has 0 features, and layer 0 takes 5"),
        (packed({"x": X[:, :4].copy(), "y": Y}), "an example has 4 features, and layer 0 takes 5"),
        (packed({"x": X, "y": np.full(20, 3, np.int32)}), "label 3 of example 0 is none of 0 to 2"),
        (packed({"x": X, "y": np.full(20, -(2**31), np.int32)}), "label -2147483648 of example 0 is none of 0 to 2"),
        (packed({"x": np.where(np.arange(100).reshape(20, 5) == 88, np.float32("nan"), X), "y": Y}),
         NOT_FINITE),
        (packed({"x": np.where(np.arange(100).reshape(20, 5) == 88, np.float32("-inf"), X), "y": Y}),
         NOT_FINITE),
    ],
)  # fmt: skip
def test_data_that_are_none_are_told(data: bytes, sentence: str) -> None:
    assert fault(data=data) == sentence


def test_training_that_leaves_the_finite_numbers_is_told() -> None:
    assert fault(config=config_of(lr=1e30, epochs=9)) == "training has left the finite numbers: a smaller lr may help"


@pytest.mark.parametrize(("sizes", "what"), [((5, 4000, 3), "the network"), ((5, 3), "the order of the examples")])
def test_too_little_memory_is_told(sizes: tuple[int, ...], what: str) -> None:
    """The examples of the second one take all of the memory that there is but a little."""
    count = 20 if len(sizes) == 3 else 40_000
    large = task(sizes, count)
    model, data = packed(large.arrays), packed({"x": large.x, "y": large.labels})
    room = len(model) + len(data) + (18 << 16)
    assert fault(model=model, data=data, most_bytes=room) == f"there is not enough memory for {what}"


def test_where_there_is_no_room_for_a_blob_its_place_is_0() -> None:
    with pytest.raises(MemoryError, match=r"^8388608 bytes$"):
        called(CONFIG, MODEL, bytes(8 << 20), 4 << 20)


def mutated(draw: st.DrawFn, good: bytes) -> bytes:
    """Draw the same bytes with a few others in places, or less of them."""
    bad = bytearray(good)
    for _ in range(draw(st.integers(0, 3))):
        bad[draw(st.integers(0, len(bad) - 1))] = draw(
            st.sampled_from(b'0123456789-+.eE"\\[]{},: \x00\xff') | st.integers(0, 255)
        )
    return bytes(bad[: draw(st.integers(0, len(bad)) | st.just(len(bad)))])


@st.composite
def anything(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    return mutated(draw, CONFIG), mutated(draw, MODEL), mutated(draw, DATA)


@settings(max_examples=600, deadline=None)
@given(anything())
def test_no_input_traps(blobs: tuple[bytes, bytes, bytes]) -> None:
    report: dict[str, Any] = called(*blobs)[0]
    assert report.keys() in ({"error"}, {"metrics", "steps"})


def test_a_model_of_many_layers_needs_no_list_of_that_length() -> None:
    deep: Task = task((4,) * 300 + (2,), 3)
    report, _ = called(config_of(), packed(deep.arrays), packed({"x": deep.x, "y": deep.labels}))
    assert report["steps"] == 1
