"""Who trains: a module in the sandbox, PyTorch with one thread, plain C that knows this machine."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from flower_app.config import MOMENTUM
from flower_app.workloads import training
from flower_app.workloads.interface import NodeEnv
from flower_app.workloads.partition import Examples
from flower_app.workloads.wasm.sandbox import run_module
from flower_app.workloads.wasm.task import Limits
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.wasm_cases.fits import Contender, Fit

SITE = NodeEnv("site", 0, 1, 1, 7, 1, "cpu", None)
PLAIN = Path(__file__).with_name("plain.c")


def in_sandbox(module: bytes, cache_dir: Path) -> Contender:
    """Train as a site does, from the arrays and back: copies in and out, and the module's start, are in the time."""
    limits = Limits()

    def contend(fit: Fit) -> float:
        return run_module(module, fit.task, limits, cache_dir).metrics["loss"]

    return contend


def in_torch() -> Contender:
    """Train by the shortest loop that PyTorch has: its own SGD, batches by their places, no data loader, no look at a loss."""
    torch.set_num_threads(1)

    def contend(fit: Fit) -> float:
        network = _network(fit)
        x, labels = torch.from_numpy(fit.examples.x), torch.from_numpy(fit.examples.labels.astype(np.int64))
        optimizer = torch.optim.SGD(network.parameters(), lr=fit.lr, momentum=MOMENTUM)
        losses = torch.zeros(())
        for _ in range(fit.epochs):
            for places in torch.split(torch.randperm(len(labels)), fit.batch_size):
                optimizer.zero_grad()
                loss = cross_entropy(network(x[places]), labels[places])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses += loss.detach() * len(places)
        return losses.item() / (fit.epochs * len(labels))

    return contend


def in_torch_at_a_site() -> Contender:
    """Train as a site does whose runtime is torch: with metrics, schedules, precision and memory looked after."""
    torch.set_num_threads(1)

    def contend(fit: Fit) -> float:
        examples = Examples(fit.examples.x, fit.examples.labels.astype(np.int64))
        return training.train(_network(fit), examples, fit.config, {}, SITE).metrics["loss"]

    return contend


def _network(fit: Fit) -> nn.Module:
    inputs, hidden, classes = fit.sizes
    return training.load(nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes)), fit.arrays)


def in_plain_c(folder: Path) -> Contender:
    """Build plain.c for this very machine, and train by it."""
    library = folder / "plain.so"
    how = ["-O3", "-march=native", "-shared", "-fPIC", str(PLAIN), "-o", str(library), "-lm"]
    subprocess.run([sys.executable, "-m", "ziglang", "cc", *how], check=True)
    native = ctypes.CDLL(str(library)).fit
    native.restype = ctypes.c_float

    def contend(fit: Fit) -> float:
        weights = [np.ascontiguousarray(values.T) for values in fit.arrays.values()]
        count, random = len(fit.examples), np.random.default_rng(1)
        order = np.concatenate([random.permutation(count) for _ in range(fit.epochs)]).astype(np.int32)
        data = [_at(fit.examples.x), _at(fit.examples.labels.astype(np.int32)), _at(order)]
        rates = ctypes.c_float(fit.lr), ctypes.c_float(MOMENTUM)
        return float(native(count, *fit.sizes, *data, fit.epochs, fit.batch_size, *rates, *map(_at, weights)))

    return contend


def _at(values: NDArray[np.float32] | NDArray[np.int32] | NDArray[np.int64]) -> ctypes.c_void_p:
    return values.ctypes.data_as(ctypes.c_void_p)
