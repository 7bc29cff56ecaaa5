"""A spool (skeleton; the signatures are final)."""

from pathlib import Path
from typing import Any


class Spool:
    def __init__(self, folder: Path, cap_bytes: int = 1_000_000_000) -> None:
        raise NotImplementedError

    @property
    def id(self) -> str:
        """Stable for the folder."""
        raise NotImplementedError

    def append(self, kind: str, data: dict[str, Any], droppable: bool = False) -> int:
        """Write a line and give its sequence number, 1 for the first."""
        raise NotImplementedError

    def pending(self, limit: int = 500) -> list[dict[str, Any]]:
        """Give the oldest unacknowledged lines: {"seq", "kind", "at", "data"}, contiguous. A line that was dropped keeps its
        seq and comes as kind "dropped", data {"<kind>_lines": n}; n is len(data["lines"]) of the line, else 1."""
        raise NotImplementedError

    def acknowledge(self, seq: int) -> None:
        """Delete what is not newer than seq. Raises ValueError when no such line was ever written."""
        raise NotImplementedError

    @property
    def dropped(self) -> dict[str, int]:
        """How many lines of each kind gave way to the cap."""
        raise NotImplementedError

    def close(self) -> None:
        """Let another process have the folder."""
        raise NotImplementedError
