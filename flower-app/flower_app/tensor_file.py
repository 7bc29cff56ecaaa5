"""safetensors files, written in one pass: no copy of the model, its hash on the way, on disk before the name shows.

Format: 8 bytes little-endian header length, JSON header, raw little-endian C-order arrays one after the other
(https://huggingface.co/docs/safetensors). Read with the safetensors library.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_app.config import ConfigError
from flower_app.files import fsync_folder, part_of
from flower_app.workloads.interface import Arrays

DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip


@dataclass(frozen=True)
class WrittenFile:
    """A file on disk and what proves it."""

    path: Path
    sha256: str
    size_bytes: int


def write_tensors(path: Path, arrays: Arrays, metadata: Mapping[str, str]) -> WrittenFile:
    """Write, fsync, rename, fsync the folder; what was written half is deleted.

    Raises OSError; TypeError for a dtype that safetensors does not know.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = part_of(path)
    digest, size = hashlib.sha256(), 0
    try:
        with scratch.open("wb") as file:
            for chunk in chunks(arrays, metadata):
                digest.update(chunk)
                size += file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)  # of a disk that is full
        raise
    fsync_folder(path.parent)
    return WrittenFile(path, digest.hexdigest(), size)


def read_tensors(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Give the arrays and the metadata.

    Raises FileNotFoundError, ConfigError as safetensors(); SafetensorError, also for a dtype that DTYPES has not.
    """
    library = safetensors()
    with library.safe_open(path, framework="numpy") as file:
        names = file.offset_keys()
        for name in names:
            if (dtype := file.get_slice(name).get_dtype()) not in DTYPES.values():
                raise library.SafetensorError(f"array {name} is of dtype {dtype}, and can be one of {', '.join(DTYPES.values())}")
        return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})


def safetensors() -> ModuleType:
    """Import the library, which only who reads a file needs. Raises ConfigError where it is not installed."""
    try:
        return import_module("safetensors")
    except ModuleNotFoundError as missing:
        raise ConfigError("to read a safetensors file needs safetensors: pip install 'espalier[wasm]'") from missing


def chunks(arrays: Arrays, metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """Give what a file holds: the header, of a multiple of 8 bytes, then each array, which is copied only if it has to be.

    Raises TypeError for a dtype that safetensors does not know.
    """
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    for name, values in arrays.items():
        if values.dtype.name not in DTYPES:
            raise TypeError(f"array {name} has dtype {values.dtype}, which safetensors does not know")
        header[name] = {
            "dtype": DTYPES[values.dtype.name],
            "shape": list(values.shape),
            "data_offsets": [offset, offset + values.nbytes],
        }
        offset += values.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for values in arrays.values():
        yield _raw(values)


def sha256_of(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _raw(values: NDArray[Any]) -> memoryview:
    plain = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return plain.reshape(-1).view(np.uint8).data
