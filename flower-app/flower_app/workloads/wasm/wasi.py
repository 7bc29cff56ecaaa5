"""The calls of WASI preview 1 that could flood or block, bounded; all others are wasmtime's own, and see no files and no network.

wasmtime interrupts a module, never a call to the host. Its own writers to stdout are a file without a limit, or a callback whose
end can print a panic of another thread at exit; so output is taken here. Layouts: WebAssembly/WASI, legacy/preview1/docs.md.
"""

import struct
import time
from collections.abc import Callable, Mapping
from functools import partial

from flower_app.workloads.wasm.abi import WASI
from flower_app.workloads.wasm.engine import wasmtime
from flower_app.workloads.wasm.faults import HostCallAbused, OutputFlood, TaskFault
from flower_app.workloads.wasm.instance import Instance, out_of_time
from flower_app.workloads.wasm.linear_memory import LinearMemory, OutsideMemory

MOST_PIECES = 1024
"""Of one fd_write or poll_oneoff; IOV_MAX of Linux."""
KEPT_STDERR_BYTES = 64 << 10
BYTES_OF_A_NUMBER, BYTES_OF_THE_REST = 64, 64 << 10
"""Of stdout: a float64 takes 24 bytes, 48 where it is written without an exponent, and its line may be indented."""
STDOUT, STDERR = 1, 2
_SUCCESS, _EBADF, _EINVAL, _ENOTSUP = 0, 8, 28, 58
_REALTIME, _MONOTONIC, _IS_ABSOLUTE = 0, 1, 1
_CLOCK = 0
_U32 = 2**32 - 1
_IOVEC = struct.Struct("<II")
_SUBSCRIPTION = struct.Struct("<QB7xI4xQ8xH6x")
"""userdata, tag; of a clock: its id, the timeout in ns, and flags."""
_EVENT = struct.Struct("<QHB21x")
Call = Callable[[LinearMemory, int, int, int, int], int]


class HostCalls:
    """What one module asks of the host. stdout: all of it, up to what a model of so many numbers takes; stderr: the end of it."""

    def __init__(self, environment: Mapping[str, str], numbers: int) -> None:
        self.stdout, self.stderr = bytearray(), bytearray()
        self._environment = environment
        self._most_stdout_bytes = BYTES_OF_THE_REST + BYTES_OF_A_NUMBER * numbers
        self._started_ns = 0

    def link(self, store: wasmtime.Store, instance: Instance) -> wasmtime.Linker:
        """Give a module these calls, the environment, and nothing else."""
        config = wasmtime.WasiConfig()
        config.argv = ["task"]
        config.env = list(self._environment.items())
        store.set_wasi(config)
        self._started_ns = time.monotonic_ns()  # where wasmtime's monotonic clock is 0
        linker = wasmtime.Linker(store.engine)
        linker.define_wasi()
        linker.allow_shadowing = True
        i32 = wasmtime.ValType.i32()
        for name, call in (("fd_write", partial(self._write, instance)), ("poll_oneoff", partial(self._poll, instance))):
            kind = wasmtime.FuncType([i32] * 4, [i32])
            linker.define_func(WASI, name, kind, partial(_guarded, instance, name, call), access_caller=True)
        return linker

    def _write(self, instance: Instance, memory: LinearMemory, file: int, pieces_at: int, count: int, written_at: int) -> int:
        """fd_write: to stdout or stderr; there is no other file."""
        if file not in (STDOUT, STDERR):
            return _EBADF
        written = 0
        for at, size in _IOVEC.iter_unpack(memory.read(pieces_at, count * _IOVEC.size)):
            if file == STDERR:
                kept = min(size, KEPT_STDERR_BYTES)
                self.stderr += memory.read(at + size - kept, kept)
                del self.stderr[:-KEPT_STDERR_BYTES]
            elif len(self.stdout) + size > (most := min(self._most_stdout_bytes, instance.limits.output_bytes)):
                reads = f"at most {BYTES_OF_A_NUMBER} bytes for each number of the model"
                raise OutputFlood(f"the module wrote more than {most} bytes on stdout: a site reads {reads}")
            else:
                self.stdout += memory.read(at, size)
            written += size
        memory.write(written_at, [struct.pack("<I", written & _U32)])
        return _SUCCESS

    def _poll(self, instance: Instance, memory: LinearMemory, asked_at: int, events_at: int, count: int, count_at: int) -> int:
        """poll_oneoff: sleep until the first clock is due, and no longer than the module may run. Files are ready at once."""
        if not count:
            return _EINVAL
        waits = [
            (*self._wait(tag, clock, timeout, flags), userdata, tag)
            for userdata, tag, clock, timeout, flags in _SUBSCRIPTION.iter_unpack(
                memory.read(asked_at, count * _SUBSCRIPTION.size)
            )
        ]
        first_ns = min(wait_ns for wait_ns, *_ in waits)
        left_s = max(0.0, instance.deadline - time.monotonic())
        time.sleep(min(first_ns / 1e9, left_s))
        if first_ns / 1e9 >= left_s:
            raise out_of_time(instance.limits)
        events = [_EVENT.pack(userdata, error, tag) for wait_ns, error, userdata, tag in waits if wait_ns == first_ns]
        memory.write(events_at, events)
        memory.write(count_at, [struct.pack("<I", len(events))])
        return _SUCCESS

    def _wait(self, tag: int, clock: int, timeout_ns: int, flags: int) -> tuple[int, int]:
        """Give how long to wait for it, in ns, and what is wrong with it."""
        if tag != _CLOCK:
            return 0, _SUCCESS
        if clock not in (_REALTIME, _MONOTONIC):
            return 0, _ENOTSUP
        if not flags & _IS_ABSOLUTE:
            return timeout_ns, _SUCCESS
        now_ns = time.time_ns() if clock == _REALTIME else time.monotonic_ns() - self._started_ns
        return max(0, timeout_ns - now_ns), _SUCCESS


def _guarded(instance: Instance, name: str, call: Call, caller: wasmtime.Caller, *arguments: int) -> int:
    """Call with whole numbers as they were meant; leave with the instance what is wrong, since wasmtime may lose it."""
    first, second, third, fourth = (argument & _U32 for argument in arguments)
    try:
        if third > MOST_PIECES:
            raise HostCallAbused(f"the module called {name} with {third} pieces, and a site takes {MOST_PIECES} at once")
        memory = caller["memory"]
        if not isinstance(memory, wasmtime.Memory):
            raise HostCallAbused(f"the module called {name} and has no memory")
        return call(LinearMemory(memory, caller), first, second, third, fourth)
    except OutsideMemory as wild:
        instance.fault = HostCallAbused(f"the module called {name} with what leads nowhere: {wild}")
    except TaskFault as fault:
        instance.fault = fault
    raise instance.fault
