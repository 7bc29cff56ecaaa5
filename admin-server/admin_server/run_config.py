"""What a run may be configured with: values checked against what its app declares.

Flower takes a value of a wrong type as it comes and does not name a key that it does not know; both end a run minutes later.
"""

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from admin_server.errors import AppInvalid, RunConfigInvalid

Scalar = str | int | float | bool
PAIR = re.compile(r"(\S+?)=('[^']*'|\"[^\"]*\"|\S+)")  # as `flwr run --run-config` reads it
INT64 = range(-(2**63), 2**63)  # Flower sends an integer as sint64


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and re.compile(value) is not None
    except re.error:
        return False


LIMIT_TYPES: dict[str, Callable[[Any], bool]] = {
    "choices": lambda value: isinstance(value, list) and all(isinstance(each, (str, int, float)) for each in value),
    "pattern": _is_pattern,
    "at-least": _is_number,
    "above": _is_number,
    "below": _is_number,
    "at-most": _is_number,
}


@dataclass(frozen=True)
class Limits:
    """What [tool.espalier.run-config] of an app says of a key beyond its default.

    A text is one of choices or matches pattern, as far as they are given; a number lies within the bounds.
    """

    choices: tuple[Scalar, ...] = ()
    pattern: str | None = None
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    at_most: float | None = None

    @classmethod
    def of(cls, key: str, told: Any) -> "Limits":
        """Read one table. Raises AppInvalid, naming the key."""
        known = {each.name.replace("_", "-"): each.name for each in fields(cls)}
        if not isinstance(told, dict) or not told.keys() <= known.keys():
            may = ", ".join(known)
            raise AppInvalid(f"[tool.espalier.run-config] may say of {key}: {may}; the app says {told}.", key=key)
        for name, value in told.items():
            if not LIMIT_TYPES[name](value):
                raise AppInvalid(f"[tool.espalier.run-config] says {name} = {value!r} of {key}, which cannot be used.", key=key)
        values: dict[str, Any] = {known[name]: tuple(value) if name == "choices" else value for name, value in told.items()}
        return cls(**values)

    def refusal(self, value: Scalar) -> str | None:
        """Say what a value would have to be, when it is not."""
        if self.choices or self.pattern is not None:
            matches = isinstance(value, str) and self.pattern is not None and re.fullmatch(self.pattern, value)
            if value not in self.choices and not matches:
                shape = [] if self.pattern is None else [f"match {self.pattern}"]
                return " or ".join([f"must be one of {', '.join(map(repr, self.choices))}", *shape])
        if isinstance(value, str):
            return None
        if self.at_least is not None and value < self.at_least:
            return f"must be at least {self.at_least:g}"
        if self.above is not None and value <= self.above:
            return f"must be above {self.above:g}"
        if self.below is not None and value >= self.below:
            return f"must be below {self.below:g}"
        return f"must be at most {self.at_most:g}" if self.at_most is not None and value > self.at_most else None


def check(declared: Mapping[str, Scalar], limits: Mapping[str, Limits], given: Mapping[str, Any]) -> dict[str, Scalar]:
    """Flatten and check what a caller gave; an integer where a float is declared becomes one.

    declared, and the answer: dotted keys. Raises RunConfigInvalid, naming the key.
    """
    checked: dict[str, Scalar] = {}
    for key, value in flatten(given).items():
        if key not in declared:
            raise RunConfigInvalid(f"The app declares no run-config key {key!r}.", key=key, known=sorted(declared))
        checked[key] = scalar = as_declared(key, declared[key], value)
        if key in limits and (refusal := limits[key].refusal(scalar)):
            raise RunConfigInvalid(f"{key} {refusal}, not {scalar!r}.", key=key)
    return checked


def as_declared(key: str, default: Scalar, value: Any) -> Scalar:
    """Give the value in the type of the declared default. Raises RunConfigInvalid."""
    expected = type(default)
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        shown = "null" if value is None else f"{value!r} ({type(value).__name__})"
        raise RunConfigInvalid(f"{key} must be of type {expected.__name__}, as its default {default!r} is, not {shown}.", key=key)
    if type(value) is int and value not in INT64:
        raise RunConfigInvalid(f"{key} does not fit into 64 bits.", key=key)
    if type(value) is float and not math.isfinite(value):
        raise RunConfigInvalid(f"{key} must be a finite number, not {value!r}.", key=key)
    scalar: Scalar = value
    return scalar


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested tables into dotted keys, as Flower does with an app's declared config."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}.{key}" if prefix else key
        below = flatten(value, name) if isinstance(value, Mapping) and value else {name: value}
        if twice := flat.keys() & below.keys():
            raise RunConfigInvalid(f"The run-config key {min(twice)!r} is given twice.", key=min(twice))
        flat |= below
    return flat


def from_text(text: str) -> dict[str, Any]:
    """Read `num-rounds=3 lr=0.1 workload="digits"`, the form that `flwr run --run-config` takes.

    Raises RunConfigInvalid.
    """
    pairs = PAIR.findall(text)
    left = PAIR.sub("", text).strip()
    if left or not pairs:
        raise RunConfigInvalid(f"--run-config must be key=value pairs; cannot read {left or text!r}.", key=None)
    try:
        return flatten(tomllib.loads("\n".join(f"{key} = {value}" for key, value in pairs)))
    except (ValueError, RecursionError) as refused:
        raise RunConfigInvalid(f"--run-config must be TOML values, text in quotes: {refused}.", key=None) from None
