"""Partitioners of flwr-datasets, by class name, where that package is installed; its import costs 2.8 CPU-s and 240 MB."""

import contextlib
import inspect
import io
import re
import tomllib
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flower_app.config import ConfigError, RunConfig

PLACE = "place"
UNFIT = ("Partitioner", "Vertical", "IdToSizeFnc")  # the base, those that part columns, and one that takes a function


def is_of_flwr_datasets(how: str) -> bool:
    """Does this name a class of flwr-datasets?"""
    return re.fullmatch("[A-Za-z]+Partitioner", how) is not None


def deal_by_class(
    columns: Mapping[str, NDArray[Any]], config: RunConfig, random: np.random.Generator, **filled_in: Any
) -> list[NDArray[np.int64]]:
    """Have the class that `partitioner` names deal examples out, which are shuffled before, as FederatedDataset does.

    columns: what it may look at, a value for each example. Its arguments are partitioner-options, besides a seed and filled_in,
    as far as the class takes these. Raises ConfigError.
    """
    how, text = config.partitioner, config.partitioner_options
    datasets, kind = _installed(how)
    order = random.permutation(len(next(iter(columns.values()))))
    shuffled = {PLACE: order, **{name: values[order] for name, values in columns.items()}}
    arguments = _arguments(how, kind, options_of(text), {"seed": int(random.integers(2**63)), **filled_in})
    count = filled_in["num_partitions"]
    try:
        datasets.disable_progress_bars()
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # one more bar; and we look at sizes ourselves
            warnings.simplefilter("ignore")
            partitioner = kind(**arguments)
            partitioner.dataset = datasets.Dataset.from_dict(shuffled)
            made = partitioner.num_partitions
            parts = [np.sort(np.asarray(partitioner.load_partition(number)[PLACE], np.int64)) for number in range(made)]
    except Exception as error:
        raise ConfigError(f'partitioner "{how}" with partitioner-options "{text}": {error}') from error
    if made != count:
        raise ConfigError(f'partitioner "{how}" makes {made} parts of these examples, and there are {count} sites')
    return parts


def options_of(text: str) -> dict[str, Any]:
    """Read `num_shards_per_partition=2 shard_size=20`, values as TOML has them. Raises ConfigError."""
    pairs = re.split(r"\s+(?=\w+\s*=)", text.strip())
    try:
        return tomllib.loads("\n".join(pairs))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"partitioner-options needs name=value pairs, values as in TOML, got {text!r}: {error}") from None


def _installed(how: str) -> tuple[Any, Any]:
    """Give the module `datasets` and the class. Raises ConfigError."""
    try:
        datasets, module = import_module("datasets"), import_module("flwr_datasets.partitioner")
    except ModuleNotFoundError as error:
        if error.name not in ("datasets", "flwr_datasets"):
            raise
        raise ConfigError(f'partitioner "{how}" is one of flwr-datasets, which is not here: pip install flwr-datasets') from None
    choices = [name for name in module.__all__ if not name.startswith(UNFIT)]
    if how not in choices:
        raise ConfigError(f'partitioner "{how}" is unknown; flwr-datasets has {", ".join(choices)}')
    return datasets, getattr(module, how)


def _arguments(how: str, kind: Any, options: Mapping[str, Any], filled_in: Mapping[str, Any]) -> dict[str, Any]:
    taken = inspect.signature(kind).parameters
    if unknown := options.keys() - taken.keys():
        raise ConfigError(f"partitioner-options has {min(unknown)}, and {how} takes {', '.join(taken)}")
    arguments = {name: value for name, value in filled_in.items() if name in taken}
    arguments |= {name: np.array(value) if _is_table(value) else value for name, value in options.items()}
    if lacking := [name for name, each in taken.items() if each.default is each.empty and name not in arguments]:
        raise ConfigError(f"partitioner-options lacks {', '.join(lacking)} of {how}")
    return arguments


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], list)
