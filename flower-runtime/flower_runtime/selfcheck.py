"""Whether a name inside Flower is still as we know it. The names stand in pins.py.

A part whose names are not all as pinned is not patched: its launcher says so in one line and starts Flower's own command.
`python -m flower_runtime.selfcheck` prints what has changed; exit code 1 then.
"""

import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pin:
    """One name inside Flower.

    parameters: names that its signature must have. mentions: names that its code must use, because we replace them there.
    """

    module: str
    name: str
    parameters: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()

    def fault(self) -> str | None:
        """Say what is no longer as pinned; None when all is."""
        try:
            found = self._resolve()
        except ImportError as error:
            return f"{self.module}: {error}"
        except AttributeError:
            return f"{self.module}.{self.name} is gone"
        lost = [name for name in self.parameters if name not in inspect.signature(found).parameters]
        if lost:
            return f"{self.module}.{self.name} has no parameter {', '.join(lost)}"
        lost = sorted(set(self.mentions) - set(_names_used(found))) if self.mentions else []
        return f"{self.module}.{self.name} no longer uses {', '.join(lost)}" if lost else None

    def _resolve(self) -> Any:
        found: Any = importlib.import_module(self.module)
        for step in self.name.split("."):
            found = getattr(found, step)
        return found


def faults(pins: Iterable[Pin]) -> list[str]:
    """List what is not as pinned; empty when a part may be patched."""
    return [fault for pin in pins if (fault := pin.fault())]


def _names_used(function: Any) -> Iterator[str]:
    """Give the global names and attributes that a function's code uses, nested functions included."""
    pending = [inspect.unwrap(function).__code__]
    while pending:
        code = pending.pop()
        yield from code.co_names
        pending += [constant for constant in code.co_consts if inspect.iscode(constant)]


def main() -> int:
    """Print each part with what has changed in it."""
    from flower_runtime.pins import PINS

    found = {part: faults(pins) for part, pins in PINS.items()}
    for part, changed in found.items():
        print(f"{part}: {len(PINS[part])} names", "; ".join(changed) or "as pinned")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
