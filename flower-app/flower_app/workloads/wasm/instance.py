"""A module that runs: in a store of its own, within its limits, until its time is up. What stops it is told as a TaskFault."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flower_app.text import one_line
from flower_app.workloads.wasm.compiler import innermost, reason
from flower_app.workloads.wasm.engine import STACK_BYTES, engine, wasmtime
from flower_app.workloads.wasm.faults import (
    HostCallAbused,
    ModuleInvalid,
    TaskFailed,
    TaskFault,
    TaskMemory,
    TaskStackOverflow,
    TaskTable,
    TaskTimeout,
    TaskTrap,
)
from flower_app.workloads.wasm.linear_memory import LinearMemory
from flower_app.workloads.wasm.task import Limits

MOST_TABLES = 4
MB = 1 << 20
Link = Callable[[wasmtime.Store, "Instance"], wasmtime.Linker]
"""Gives what the module imports."""


class Instance:
    """One module in one store. deadline: of time.monotonic(). fault: what a function of the host has stopped it for."""

    def __init__(self, store: wasmtime.Store, limits: Limits) -> None:
        self.store, self.limits = store, limits
        self.deadline = time.monotonic() + limits.wall_s
        self.fault: TaskFault | None = None
        self._exports: Any = {}

    @property
    def memory(self) -> LinearMemory:
        """The memory that it exports."""
        return LinearMemory(self._exports["memory"], self.store)

    def exports(self, name: str) -> bool:
        """Does it export something of this name?"""
        return name in self._exports

    def see_that_time_is_left(self) -> None:
        """Raise TaskTimeout. wasmtime itself looks at a loop and where a function begins: not in a straight line."""
        if time.monotonic() >= self.deadline:
            raise out_of_time(self.limits)

    def start(self, module: wasmtime.Module, link: Link | None) -> None:
        """Instantiate, which runs its start function. Raises TaskFault."""
        with self._told():
            if link is None:
                native = wasmtime.Instance(self.store, module, [])
            else:
                native = link(self.store, self).instantiate(self.store, module)
        self._exports = native.exports(self.store)

    def call(self, name: str, *arguments: int) -> Any:
        """Call what it exports, of the signature that abi.py has seen. Raises TaskFault; ExitTrap of one that ends itself."""
        with self._told():
            return self._exports[name](self.store, *arguments)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Raise what stops it as a TaskFault."""
        try:
            yield
        except (wasmtime.Trap, wasmtime.WasmtimeError, TaskFault) as stopped:
            if self.fault is not None:  # wasmtime hands on what a host function raised by a global, which threads share
                raise self.fault from None
            if isinstance(stopped, wasmtime.ExitTrap):
                self.see_that_time_is_left()
            if isinstance(stopped, wasmtime.ExitTrap | TaskFault):
                raise
            told = self._trapped(stopped) if isinstance(stopped, wasmtime.Trap) else self._refused(str(stopped))
            raise told from None
        self.see_that_time_is_left()

    def _trapped(self, trap: wasmtime.Trap) -> TaskFault:
        code, codes = trap.trap_code, wasmtime.TrapCode
        if code == codes.INTERRUPT:
            return out_of_time(self.limits)
        if code == codes.STACK_OVERFLOW:
            return TaskStackOverflow(f"the module recursed through the {STACK_BYTES // MB} MB of stack that it is given")
        frames = trap.frames[:1]
        place = " in " + one_line(frames[0].func_name, 100) if frames and frames[0].func_name else ""
        return TaskTrap(f"the module trapped{place}: {innermost(trap.message)}")

    def _refused(self, text: str) -> TaskFault:
        """Say why wasmtime has stopped it: in a call of the host, which has a backtrace, or before it began."""
        limits = self.limits
        if text.startswith("error while executing"):
            if innermost(text).startswith("exit with invalid exit status"):
                return TaskFailed("the module ended itself with an exit code outside 0..125")
            return HostCallAbused(f"the module called the host with what leads nowhere: {innermost(text)}")
        if text.startswith("mmap failed"):
            return TaskMemory(f"this process is given too few addresses for a module, which takes 4 GB of them: {reason(text)}")
        if text.startswith(("table minimum", "resource limit exceeded: table")):
            given = f"{limits.table_elements} elements in each of {MOST_TABLES} tables"
            return TaskTable(f"the module needs more than the {given} that it is given: {reason(text)}")
        if text.startswith("memory minimum"):
            return out_of_memory(limits, "does not fit", f": {reason(text)}")
        return ModuleInvalid(f"the module cannot be started: {reason(text)}")


@contextmanager
def running(module: wasmtime.Module, limits: Limits, link: Link | None = None) -> Iterator[Instance]:
    """Run a module in this block; afterwards its memory is gone. Raises TaskFault."""
    here = engine()
    with here.ticking():
        store = wasmtime.Store(here.native)
        try:
            store.set_limits(
                memory_size=limits.memory_bytes,
                table_elements=limits.table_elements,
                instances=1,
                tables=MOST_TABLES,
                memories=1,
            )
            here.set_deadline(store, limits.wall_s)
            instance = Instance(store, limits)
            instance.start(module, link)
            yield instance
        finally:
            store.close()


def out_of_memory(limits: Limits, what: str, why: str = "") -> TaskMemory:
    """Say that a module needs more memory than it may have."""
    return TaskMemory(f"the module {what} the {limits.memory_bytes / MB:g} MB that it is given (wasm-memory-mb){why}")


def out_of_time(limits: Limits) -> TaskTimeout:
    """Say that a module's time is up."""
    return TaskTimeout(f"the module ran longer than the {limits.wall_s:g} s that it is given (wasm-timeout-s)")
