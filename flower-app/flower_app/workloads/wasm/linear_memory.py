"""The memory of a module that runs.

It may grow and move whenever the module runs, and is gone with its store: bytes are copied, from an address that is asked for
each time.
"""

import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_app.workloads.wasm.engine import wasmtime


class OutsideMemory(IndexError):
    """A pointer and a length of a module do not lie in its memory."""


class LinearMemory:
    """Copies in and out. Each call raises OutsideMemory before it touches anything."""

    def __init__(self, memory: wasmtime.Memory, store: wasmtime.Store | wasmtime.Caller) -> None:
        self._memory, self._store = memory, store

    def write(self, at: int, chunks: Iterable[bytes | memoryview]) -> None:
        """Copy bytes in, one after the other."""
        for chunk in chunks:
            if len(chunk):
                source = np.frombuffer(chunk, np.uint8)
                ctypes.memmove(self._address(at, source.nbytes), source.ctypes.data, source.nbytes)
                at += source.nbytes

    def read(self, at: int, size: int) -> bytes:
        """Copy bytes out."""
        return ctypes.string_at(self._address(at, size), size)

    def read_array(self, at: int, like: NDArray[Any]) -> NDArray[Any]:
        """Copy an array of this shape and dtype out, which is little-endian there."""
        values = np.empty(like.shape, like.dtype.newbyteorder("<"))
        ctypes.memmove(values.ctypes.data, self._address(at, values.nbytes), values.nbytes)
        return values.astype(like.dtype, copy=False)

    def _address(self, at: int, size: int) -> int:
        whole = self._memory.data_len(self._store)
        if at + size > whole:
            raise OutsideMemory(f"{size} bytes at {at} do not lie in its memory of {whole} bytes")
        return ctypes.addressof(self._memory.data_ptr(self._store).contents) + at
