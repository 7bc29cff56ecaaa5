"""The calls of WASI preview 1 that could flood, block, or cost more than a look at a clock; all others are wasmtime's own.

wasmtime interrupts a module where it loops or enters a function, never in a call to the host: each call here sees first that
there is time left. A module has no files and no network, so paths are not even read. wasmtime's own writers to stdout are a file
without a limit, or a callback whose end can print a panic of another thread at exit; so output is taken here. Layouts:
WebAssembly/WASI, legacy/preview1/docs.md.
"""

import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate

from flower_app.workloads.wasm.abi import WASI
from flower_app.workloads.wasm.engine import wasmtime
from flower_app.workloads.wasm.faults import HostCallAbused, OutputFlood, TaskFault
from flower_app.workloads.wasm.instance import Instance, out_of_time
from flower_app.workloads.wasm.linear_memory import LinearMemory, OutsideMemory

MOST_PIECES = 1024
"""Of one fd_write or poll_oneoff; IOV_MAX of Linux."""
MOST_RANDOM_BYTES = 1 << 20
"""Of one random_get: 3 ms."""
KEPT_STDERR_BYTES = 64 << 10
BYTES_OF_A_NUMBER, BYTES_OF_THE_REST = 64, 64 << 10
"""Of stdout: a float64 takes 24 bytes, 48 where it is written without an exponent, and its line may be indented."""
STDIN, STDOUT, STDERR = 0, 1, 2
NO_FILES = (
    "fd_pread", "fd_prestat_dir_name", "fd_pwrite", "fd_readdir", "path_create_directory", "path_filestat_get",
    "path_filestat_set_times", "path_link", "path_open", "path_readlink", "path_remove_directory", "path_rename", "path_symlink",
    "path_unlink_file", "sock_accept", "sock_recv", "sock_send", "sock_shutdown",
)  # fmt: skip
ARGUMENTS = (b"task\0",)
_SUCCESS, _EBADF, _EINVAL, _ENOTSUP = 0, 8, 28, 58
_REALTIME, _MONOTONIC, _IS_ABSOLUTE = 0, 1, 1
_CLOCK = 0
_U32 = 2**32 - 1
_IOVEC = struct.Struct("<II")
_SUBSCRIPTION = struct.Struct("<QB7xI4xQ8xH6x")
"""userdata, tag; of a clock: its id, the timeout in ns, and flags."""
_EVENT = struct.Struct("<QHB21x")
Call = Callable[..., int]
"""Of the caller's memory and the arguments, each from 0 on."""


class HostCalls:
    """What one module asks of the host. stdout: all of it, up to what a model of so many numbers takes; stderr: the end of it."""

    def __init__(self, environment: Mapping[str, str], numbers: int) -> None:
        self.stdout, self.stderr = bytearray(), bytearray()
        self._environment = [f"{name}={value}\0".encode() for name, value in environment.items()]
        self._most_stdout_bytes = BYTES_OF_THE_REST + BYTES_OF_A_NUMBER * numbers
        self._started_ns = 0

    def link(self, store: wasmtime.Store, instance: Instance) -> wasmtime.Linker:
        """Give a module these calls, the environment, and nothing else."""
        store.set_wasi(wasmtime.WasiConfig())
        self._started_ns = time.monotonic_ns()  # where wasmtime's monotonic clock is 0
        linker = wasmtime.Linker(store.engine)
        linker.define_wasi()
        linker.allow_shadowing = True
        ours: dict[str, Call] = {
            "args_get": partial(_give, ARGUMENTS),
            "args_sizes_get": partial(_measure, ARGUMENTS),
            "environ_get": partial(_give, self._environment),
            "environ_sizes_get": partial(_measure, self._environment),
            "fd_read": _read_nothing,
            "fd_write": partial(self._write, instance),
            "poll_oneoff": partial(self._poll, instance),
            "random_get": _draw,
            **dict.fromkeys(NO_FILES, _refuse),
        }
        for name, call in ours.items():
            native = linker.get(store, WASI, name)
            assert isinstance(native, wasmtime.Func), name
            linker.define_func(WASI, name, native.type(store), partial(_guarded, instance, name, call), access_caller=True)
        return linker

    def _write(self, instance: Instance, memory: LinearMemory, file: int, pieces_at: int, count: int, written_at: int) -> int:
        """fd_write: to stdout or stderr; there is no other file."""
        if file not in (STDOUT, STDERR):
            return _EBADF
        _see_count("fd_write", count)
        pieces = list(_IOVEC.iter_unpack(memory.read(pieces_at, count * _IOVEC.size)))
        written = sum(size for _, size in pieces)
        if file == STDERR:
            self._keep_the_end_of(pieces, memory)
        elif len(self.stdout) + written > (most := min(self._most_stdout_bytes, instance.limits.output_bytes)):
            reads = f"at most {BYTES_OF_A_NUMBER} bytes for each number of the model"
            raise OutputFlood(f"the module wrote more than {most} bytes on stdout: a site reads {reads}")
        else:
            for at, size in pieces:
                self.stdout += memory.read(at, size)
        memory.write(written_at, [struct.pack("<I", written & _U32)])
        return _SUCCESS

    def _keep_the_end_of(self, pieces: Sequence[tuple[int, int]], memory: LinearMemory) -> None:
        """Read what is kept, and no more."""
        left, ends = KEPT_STDERR_BYTES, []
        for at, size in reversed(pieces):
            if not left:
                break
            kept = min(size, left)
            ends.append(memory.read(at + size - kept, kept))
            left -= kept
        self.stderr += b"".join(reversed(ends))
        del self.stderr[:-KEPT_STDERR_BYTES]

    def _poll(self, instance: Instance, memory: LinearMemory, asked_at: int, events_at: int, count: int, count_at: int) -> int:
        """poll_oneoff: sleep until the first clock is due, and no longer than the module may run. Files are ready at once."""
        if not count:
            return _EINVAL
        _see_count("poll_oneoff", count)
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
    try:
        instance.see_that_time_is_left()
        memory = caller["memory"]
        if not isinstance(memory, wasmtime.Memory):
            raise HostCallAbused(f"the module called {name} and has no memory")
        return call(LinearMemory(memory, caller), *(argument & _U32 for argument in arguments))
    except OutsideMemory as wild:
        instance.fault = HostCallAbused(f"the module called {name} with what leads nowhere: {wild}")
    except TaskFault as fault:
        instance.fault = fault
    raise instance.fault


def _measure(texts: Sequence[bytes], memory: LinearMemory, count_at: int, size_at: int) -> int:
    """args_sizes_get, environ_sizes_get."""
    memory.write(count_at, [struct.pack("<I", len(texts))])
    memory.write(size_at, [struct.pack("<I", sum(map(len, texts)))])
    return _SUCCESS


def _give(texts: Sequence[bytes], memory: LinearMemory, places_at: int, at: int) -> int:
    """args_get, environ_get."""
    places = list(accumulate(map(len, texts), initial=at))[:-1]
    memory.write(at, texts)
    memory.write(places_at, [struct.pack(f"<{len(places)}I", *places)])
    return _SUCCESS


def _draw(memory: LinearMemory, at: int, size: int) -> int:
    """random_get."""
    if size > MOST_RANDOM_BYTES:
        raise HostCallAbused(f"the module called random_get for {size} bytes, and a site gives {MOST_RANDOM_BYTES} at once")
    memory.write(at, [os.urandom(size)])
    return _SUCCESS


def _read_nothing(memory: LinearMemory, file: int, _pieces_at: int, _count: int, read_at: int) -> int:
    """fd_read: stdin is at its end; there is no other file."""
    if file != STDIN:
        return _EBADF
    memory.write(read_at, [bytes(4)])
    return _SUCCESS


def _refuse(*_: object) -> int:
    return _EBADF


def _see_count(name: str, count: int) -> None:
    if count > MOST_PIECES:
        raise HostCallAbused(f"the module called {name} with {count} pieces, and a site takes {MOST_PIECES} at once")
