"""Wasmtime as every site has it: one engine a process, whose clock for deadlines goes while a module runs.

It finds a module's traps by signals: faulthandler.enable() after the engine was made turns one outside memory into a SIGSEGV.

Nothing is made when this is imported: ClientApps are forked from a process that may have imported it.
"""

import hashlib
import math
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from flower_app.config import ConfigError

try:
    import wasmtime as wasmtime  # the other files have it from here
except ModuleNotFoundError as missing:
    raise ConfigError("workload wasm needs wasmtime where a module runs: pip install 'espalier[wasm]'") from missing

TICK_S = 0.01
STACK_BYTES = 1 << 20
ON = ("epoch_interruption", "wasm_relaxed_simd_deterministic")
OFF = (
    "wasm_threads", "shared_memory", "wasm_memory64", "wasm_multi_memory", "wasm_custom_page_sizes", "wasm_tail_call",
    "wasm_gc", "wasm_function_references", "wasm_exceptions", "wasm_stack_switching", "wasm_wide_arithmetic",
    "wasm_component_model",
)  # fmt: skip
"""NaNs are not made canonical: it doubles the time of a fit, and no NaN leaves the sandbox."""
MOST_MODULES = 4


class Engine:
    """An engine, the modules that were last made ready for it, and its epoch, which counts ticks while a module runs.

    refused: what refusals.py knows of the others.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.native = native_engine()
        self._modules: dict[str, wasmtime.Module] = {}
        self.refused: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._running, self._stop = 0, threading.Event()
        self._due = time.monotonic()

    def module(self, sha256: str) -> wasmtime.Module | None:
        """Give a module that is ready."""
        return self._modules.get(sha256)

    def keep(self, sha256: str, module: wasmtime.Module) -> None:
        """Hold a module ready for the next calls of this process."""
        with self._lock:
            self._modules[sha256] = module
            for oldest in list(self._modules)[:-MOST_MODULES]:
                del self._modules[oldest]

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Let the epoch go on in this block."""
        with self._lock:
            self._running += 1
            if self._running == 1:
                self._stop, self._due = threading.Event(), time.monotonic()
                threading.Thread(target=self._tick, args=(self._stop,), name="wasm-epochs", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._stop.set()

    def set_deadline(self, store: wasmtime.Store, wall_s: float) -> None:
        """Have what runs in a store stopped after so long, within ticking(). Ticks that are late by now are the others'."""
        with self._lock:
            self._go_on()
            store.set_epoch_deadline(math.ceil(wall_s / TICK_S) + 1)

    def _tick(self, stop: threading.Event) -> None:
        """Go by the clock: on a busy machine this thread wakes late, and makes up for it."""
        while not stop.wait(TICK_S):
            with self._lock:
                self._go_on()

    def _go_on(self) -> None:
        while self._due <= time.monotonic():
            self.native.increment_epoch()
            self._due += TICK_S


def engine() -> Engine:
    """Give the engine of this process."""
    with _lock:
        if not _engines or _engines[-1].pid != os.getpid():
            _engines.append(Engine())
        return _engines[-1]


def native_engine() -> wasmtime.Engine:
    """Make an engine of the one configuration that there is."""
    config = wasmtime.Config()
    for names, is_on in ((ON, True), (OFF, False)):
        for name in names:
            setattr(config, name, is_on)
    config.max_wasm_stack = STACK_BYTES
    return wasmtime.Engine(config)


def config_digest() -> str:
    """Name what compiled code depends on besides its module."""
    told = (version("wasmtime"), sys.platform, platform.machine(), ON, OFF, STACK_BYTES)
    return hashlib.sha256(repr(told).encode()).hexdigest()


_lock = threading.Lock()
_engines: list[Engine] = []
"""The last one is this process's, any other one a parent's, which stays: to delete it after a fork could wait for its threads."""
