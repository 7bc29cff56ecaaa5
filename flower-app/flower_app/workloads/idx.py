"""Files in the idx format of the MNIST family, gzipped, read without a copy of the whole."""

import gzip
import struct
import zlib
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_app.workloads.guards import DataUnfit

UINT8 = 8
PIECE_BYTES = 2**20


@cache
def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Give the bytes of a .gz file in their shape, read-only, once a process.

    Format: 0 0, the type (8: bytes), the number of axes; each axis as 32 bits, big end first; the values, last axis fastest.
    Raises DataUnfit, naming the file.
    """
    try:
        with gzip.open(path) as file:
            head = file.read(4)
            if head != bytes((0, 0, UINT8, axes)):
                wanted = f"{bytes((0, 0, UINT8, axes)).hex()}, as idx of bytes with {axes} axes does"
                raise DataUnfit(f"{path} begins with {head.hex() or 'nothing'}, and not with {wanted}")
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            values = np.empty(shape, np.uint8)
            filled = _fill(file, values)
            more = bool(file.read(1))
    except (EOFError, zlib.error, struct.error) as error:
        raise DataUnfit(f"{path} is truncated or broken: {error}") from error
    except gzip.BadGzipFile as error:
        raise DataUnfit(f"{path} is no gzip file: {error}") from error
    if filled != values.size or more:
        found = f"more than {filled}" if more else str(filled)
        raise DataUnfit(f"{path} says {' x '.join(map(str, shape))} = {prod(shape)} bytes, and holds {found}")
    values.flags.writeable = False
    return values


def _fill(file: Any, values: NDArray[np.uint8]) -> int:
    """Read into an array until it is full or the file ends; give the number of bytes."""
    target, filled = values.reshape(-1).data, 0
    while count := file.readinto(target[filled : filled + PIECE_BYTES]):
        filled += count
    return filled
