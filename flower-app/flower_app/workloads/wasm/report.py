"""What a module says of its fit, in JSON that may be anything."""

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from flower_app.replies import METRIC_LIMIT
from flower_app.text import one_line
from flower_app.workloads.interface import Arrays, Metrics
from flower_app.workloads.wasm.faults import BadUpdate

MOST_METRICS = 64
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


def parsed(text: bytes, what: str) -> dict[str, Any]:
    """Read a JSON object. Raises BadUpdate."""
    try:
        told = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadUpdate(f"{what} of the module is no JSON: {shown(error)}; it begins with {text[:40]!r}") from None
    if not isinstance(told, dict):
        raise BadUpdate(f"{what} of the module is no JSON object: it begins with {text[:40]!r}")
    return told


def metrics_of(told: Mapping[str, Any], what: str) -> Metrics:
    """Read its `metrics`: names, each with a number that the server takes. Raises BadUpdate."""
    metrics = told.get("metrics")
    if not isinstance(metrics, dict) or len(metrics) > MOST_METRICS:
        raise BadUpdate(
            f"{what} of the module needs metrics, an object of at most {MOST_METRICS} names, and has {shown(metrics)}"
        )
    for name, value in metrics.items():
        if not _NAME.fullmatch(name):
            raise BadUpdate(f"{what} of the module has a metric {shown(name)}: needed are at most 64 of A-Z a-z 0-9 _ . -")
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= METRIC_LIMIT:
            raise BadUpdate(
                f"{what} of the module has metric {name} = {shown(value)}, which is no number of at most {METRIC_LIMIT:g}"
            )
    return {name: float(value) for name, value in metrics.items()}


def is_whole(value: object, least: int) -> bool:
    """Is it a whole number, and at least so much?"""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def see_that_all_is_finite(arrays: Arrays) -> None:
    """Raise BadUpdate with the arrays that hold something else, and how much of it."""
    counts = {name: values.size - int(np.count_nonzero(np.isfinite(values))) for name, values in arrays.items()}
    wrong = [f"{count} of {arrays[name].size} in {name}" for name, count in counts.items() if count]
    if wrong:
        told = ", ".join(wrong[:8]) + f" and {len(wrong) - 8} more arrays" * (len(wrong) > 8)
        raise BadUpdate(f"the module gave back numbers that are not finite: {told}")


def shown(value: object) -> str:
    """Show what a stranger says, in one short line."""
    try:
        return one_line(value if isinstance(value, Exception) else repr(value), 100)
    except ValueError:  # Python prints no whole number of more than 4300 digits
        return "a number of thousands of digits"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
