"""Models as Flower carries them: ArrayRecords of npy bytes, seen as numpy arrays without a copy."""

import hashlib
import io
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from flower_app.workloads.interface import Arrays

R = TypeVar("R", ArrayRecord, MetricRecord, ConfigRecord)
NPY_VERSIONS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class NotAnArray(ValueError):
    """The bytes of an Array are not a plain npy array."""


def to_record(arrays: Arrays) -> ArrayRecord:
    """Serialise arrays, in order."""
    return ArrayRecord({name: Array(np.asarray(values)) for name, values in arrays.items()})


def to_arrays(record: ArrayRecord) -> Arrays:
    """Give read-only arrays on the record's own bytes."""
    return {name: view(array) for name, array in record.items()}


def view(array: Array) -> NDArray[Any]:
    """Give a read-only array on the bytes of one Array; what it says of itself counts, not what the Array claims.

    Raises NotAnArray.
    """
    stream = io.BytesIO(array.data)
    try:
        read_header = NPY_VERSIONS[np.lib.format.read_magic(stream)]
        shape, fortran_order, dtype = read_header(stream)
        if dtype.hasobject or min(shape, default=0) < 0:
            raise NotAnArray(f"it has dtype {dtype} and shape {shape}")
        flat = np.frombuffer(array.data, dtype=dtype, offset=stream.tell(), count=int(np.prod(shape, dtype=np.int64)))
        return flat.reshape(shape, order="F" if fortran_order else "C")
    except NotAnArray:
        raise
    except Exception as error:  # a stranger's header can make numpy's parser raise nearly anything
        raise NotAnArray(f"not npy bytes: {error}") from error


def digest(arrays: Arrays) -> str:
    """Give the sha256 of a model: of each array's name, dtype, shape and bytes in C order, in the model's order."""
    found = hashlib.sha256()
    for name, values in arrays.items():
        found.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        found.update(np.ascontiguousarray(values).view(np.uint8).data if values.size else b"")
    return found.hexdigest()


def size_bytes(content: RecordDict) -> int:
    """Count the payload: the bytes of all arrays, metrics and config values."""
    return sum(record.count_bytes() for record in content.values())


def records_of(content: RecordDict, kind: type[R]) -> dict[str, R]:
    """Give the records of one kind, by name.

    As RecordDict's own `array_records` does, whose answer refers to itself in a circle and to the content: a model that was
    looked at so would stay in memory until the garbage collector comes.
    """
    return {name: record for name, record in content.items() if isinstance(record, kind)}
