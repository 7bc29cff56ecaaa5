"""Extra arguments: a list of flags that may be given, each with a check of its value."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from admin_server.errors import ArgumentRefused

Allowed = Callable[[str], Any]
"""Checks a flag's value; raises ValueError with the rest of a sentence."""


def take(arguments: Sequence[str], allowed: Mapping[str, Allowed]) -> list[str]:
    """Check `--flag value` and `--flag=value` words and give them as flag, value, flag, value …

    Raises ArgumentRefused, naming the first one that is not allowed or whose value is missing or wrong.
    """
    taken: list[str] = []
    words = list(arguments)
    while words:
        flag, equals, value = words.pop(0).partition("=")
        if flag not in allowed:
            may = ", ".join(sorted(allowed)) or "none"
            raise ArgumentRefused(f"{flag!r} may not be given; allowed are: {may}.", argument=flag, allowed=sorted(allowed))
        if not equals:
            if not words:
                raise ArgumentRefused(f"{flag} needs a value.", argument=flag)
            value = words.pop(0)
        try:
            allowed[flag](value)
        except ValueError as refused:
            raise ArgumentRefused(f"{flag} {refused}, not {value!r}.", argument=flag) from None
        taken += [flag, value]
    return taken
