"""The guest: as it is built, as it is called with any bytes, and what it has to give."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import wasmtime
from flower_app.tensor_file import chunks
from flower_app.workloads import mlp
from flower_app.workloads.interface import Arrays
from flower_app.workloads.wasm.task import Hyperparameters, Task
from numpy.typing import NDArray

SOURCE = Path(__file__).parents[2] / "wasm-task"
HOW = Hyperparameters(epochs=1, steps=0, batch_size=8, lr=0.1, momentum=0.9, weight_decay=0.0, proximal_mu=0.0, seed=7)
Floats = NDArray[np.float32]


@functools.cache
def build() -> ModuleType:
    """Load build.py, by its path: a folder with a hyphen is no package."""
    spec = importlib.util.spec_from_file_location("build_of_the_guest", SOURCE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def built(abi: str) -> bytes:
    """Build fl1 or propeller, once for all tests."""
    wasm: bytes = build().build(abi)
    return wasm


def task(sizes: tuple[int, ...] = (5, 7, 3), count: int = 20, **how: float) -> Task:
    """Give a fit of made-up examples. how: what is other than in HOW."""
    random = np.random.default_rng(sum(sizes) + count)
    x = random.normal(size=(count, sizes[0])).astype(np.float32)
    labels = random.integers(0, sizes[-1], count).astype(np.int32)
    told = replace(HOW, **how)  # type: ignore[arg-type]
    return Task(mlp.first_arrays(sizes, 3), x, labels, told, "run", 2, "site-a")


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Write arrays as the host hands them on."""
    return b"".join(chunks(dict(arrays)))


@functools.cache
def compiled(abi: str) -> tuple[wasmtime.Engine, wasmtime.Module]:
    """Compile the guest, once for all tests."""
    atexit.register(compiled.cache_clear)  # what outlives wasmtime's own modules ends with a traceback
    engine = wasmtime.Engine()
    return engine, wasmtime.Module(engine, built(abi))


def called(config: bytes, model: bytes, data: bytes, most_bytes: int = 64 << 20) -> tuple[dict[str, Any], bytes]:
    """Call fl_train with these very bytes; give its report, and the model's bytes.

    Raises wasmtime.Trap, MemoryError.
    """
    engine, module = compiled("fl1")
    store = wasmtime.Store(engine)
    store.set_limits(memory_size=most_bytes)
    exports: Any = wasmtime.Instance(store, module, []).exports(store)
    memory, places = exports["memory"], []
    for blob in (config, model, data):
        places.append(exports["fl_alloc"](store, len(blob)))
        if not places[-1]:
            raise MemoryError(f"{len(blob)} bytes")
        assert places[-1] % 8 == 0
        memory.write(store, blob, places[-1])
    sizes = map(len, (config, model, data))
    told = exports["fl_train"](store, *(number for pair in zip(places, sizes, strict=True) for number in pair)) & 2**64 - 1
    at, size = told >> 32, told & 2**32 - 1
    return json.loads(memory.read(store, at, at + size)), bytes(memory.read(store, places[1], places[1] + len(model)))


def config_of(how: Hyperparameters = HOW, **other: object) -> bytes:
    """Write hyperparameters. other: keys with other values."""
    return json.dumps({**asdict(how), **other}).encode()


@dataclass
class Fitted:
    """What a fit comes to."""

    arrays: dict[str, NDArray[np.float64]]
    loss: float
    accuracy: float
    steps: int


def fitted(given: Task) -> Fitted:
    """Train in numpy in float64, in the guest's order of examples."""
    how, arrays = given.hyperparameters, {name: values.astype(np.float64) for name, values in given.arrays.items()}
    starts = {name: values.copy() for name, values in arrays.items()}
    velocities = {name: np.zeros_like(values) for name, values in arrays.items()}
    losses, hits = [0.0], [0]
    steps = 0
    for batch in batches(len(given.x), how):
        loss, right, gradients = _gradients(arrays, given.x[batch].astype(np.float64), given.labels[batch])
        losses, hits, steps = [*losses, *loss], [*hits, *right], steps + 1
        for name, weights in arrays.items():
            pull = how.weight_decay * weights + how.proximal_mu * (weights - starts[name])
            velocities[name] = how.momentum * velocities[name] + gradients[name] + pull
            arrays[name] = weights - how.lr * velocities[name]
    seen = len(losses) - 1
    return Fitted(arrays, sum(losses) / seen, sum(hits) / seen, steps)


def batches(count: int, how: Hyperparameters) -> Iterator[list[int]]:
    """Give the places of each batch, as Fisher-Yates by splitmix64 has them."""
    places, state, steps = list(range(count)), how.seed, 0
    for _ in range(how.epochs or how.steps):
        for left in range(count, 1, -1):
            state = (state + 0x9E3779B97F4A7C15) % 2**64
            mixed = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
            chosen = ((mixed ^ mixed >> 31) >> 32) * left >> 32
            places[left - 1], places[chosen] = places[chosen], places[left - 1]
        for start in range(0, count, how.batch_size):
            if how.steps and steps == how.steps:
                return
            yield places[start : start + how.batch_size]
            steps += 1


def _gradients(
    arrays: Mapping[str, NDArray[np.float64]], x: NDArray[np.float64], labels: NDArray[np.int32]
) -> tuple[list[float], list[bool], dict[str, NDArray[np.float64]]]:
    """Give each example's loss and whether it was answered right, and the gradients of the mean loss."""
    depth, values = len(arrays) // 2, [x]
    for layer in range(depth):
        x = x @ arrays[f"{2 * layer}.weight"].T + arrays[f"{2 * layer}.bias"]
        values.append(x := np.maximum(x, 0) if layer + 1 < depth else x)
    odds = np.exp(x - x.max(axis=1, keepdims=True))
    chances = odds / odds.sum(axis=1, keepdims=True)
    rows = np.arange(len(x))
    losses, right = -np.log(chances[rows, labels]), x.argmax(axis=1) == labels
    slopes = chances.copy()
    slopes[rows, labels] -= 1
    slopes /= len(x)
    gradients: dict[str, NDArray[np.float64]] = {}
    for layer in reversed(range(depth)):
        gradients |= {f"{2 * layer}.weight": slopes.T @ values[layer], f"{2 * layer}.bias": slopes.sum(axis=0)}
        slopes = (slopes @ arrays[f"{2 * layer}.weight"]) * (values[layer] > 0)
    return losses.tolist(), right.tolist(), gradients


def differ(left: Arrays, right: Mapping[str, NDArray[Any]]) -> float:
    """Give by how much two models differ at most."""
    assert left.keys() == right.keys()
    return max(float(np.abs(left[name] - right[name]).max()) for name in left)
