"""The model of the first round: the workload's own, or a file that the run config names by its sha256."""

import os
from collections.abc import Mapping
from pathlib import Path

from flower_app.tensor_file import read_tensors, sha256_of
from flower_app.workloads.interface import Arrays

MODELS_DIR = "ESPALIER_MODELS_DIR"


class InitialModelUnfit(ValueError):
    """The initial model is not there, is another file, or does not fit the workload."""


def first_model(own: Arrays, sha256: str, environment: Mapping[str, str] = os.environ) -> Arrays:
    """Give the arrays of the named file, in the order of the workload's own; its own where none is named.

    Raises InitialModelUnfit, naming the first array that differs.
    """
    if not sha256:
        return own
    found = _read(sha256, environment.get(MODELS_DIR))
    if missing := sorted(own.keys() - found.keys()):
        raise InitialModelUnfit(f"the initial model has no array {missing[0]!r}, which this workload needs")
    if extra := sorted(found.keys() - own.keys()):
        raise InitialModelUnfit(f"the initial model has an array {extra[0]!r}, which this workload does not know")
    for name, values in own.items():
        other = found[name]
        if (other.shape, other.dtype) != (values.shape, values.dtype):
            told, wanted = f"{other.dtype} of shape {other.shape}", f"{values.dtype} of shape {values.shape}"
            raise InitialModelUnfit(f"array {name!r} of the initial model is {told}, this workload needs {wanted}")
    return {name: found[name] for name in own}


def _read(sha256: str, folder: str | None) -> Arrays:
    from safetensors import SafetensorError  # heavy: only who has a model to read pays

    if not folder:
        raise InitialModelUnfit(f"{MODELS_DIR} is not set: this ServerApp was given no models to start from")
    path = Path(folder) / f"{sha256}.safetensors"
    try:
        if sha256_of(path) != sha256:
            raise InitialModelUnfit(f"{path.name} is not what its name says: its sha256 differs")
        return read_tensors(path)[0]
    except FileNotFoundError:
        raise InitialModelUnfit(f"there is no initial model {sha256}: start the run by REST, with initial_model") from None
    except SafetensorError as damaged:
        raise InitialModelUnfit(f"{path.name} is no safetensors file: {damaged}") from None
