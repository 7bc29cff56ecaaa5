"""The dataclasses of a receipt, from JSON that anybody may have changed."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_origin

from flower_app.workloads.wasm.task import SEED_BITS

WORDS = {str: "a text", int: "a whole number", float: "a number"}
VALUES = (bool, int, float, str)
"""What a run config holds."""


def typed(name: str, told: Any, kind: Any) -> Any:
    """Give what was told as the kind that a field says: a dataclass with all of its fields, a run config, a text or a number.

    Numbers lie from 0 to below 2**53. Raises ValueError, which names the field.
    """
    if is_dataclass(kind):
        return _object(name, told, kind)
    if get_origin(kind) is Mapping:
        if not isinstance(told, dict) or not all(type(value) in VALUES for value in told.values()):
            raise ValueError(f"{name} needs to be an object of texts, numbers, true and false, and is {told!r:.100}")
        return told
    if type(told) not in ((int, float) if kind is float else (kind,)):
        raise ValueError(f"{name} needs to be {WORDS[kind]}, and is {told!r:.100}")
    if kind is not str and not 0 <= told < 2**SEED_BITS:
        raise ValueError(f"{name} needs to lie from 0 to below 2**{SEED_BITS}, and is {told!r:.100}")
    return told


def _object(name: str, told: Any, kind: Any) -> Any:
    wanted = {each.name: each.type for each in fields(kind)}
    if not isinstance(told, dict) or told.keys() != wanted.keys():
        raise ValueError(f"{name} needs to be an object of {', '.join(wanted)}, and is {told!r:.100}")
    return kind(**{each: typed(each, told[each], wanted[each]) for each in wanted})
