"""How long to wait before something is tried again."""


class Backoff:
    """Doubles from first_s to longest_s; reset() after a success."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def next_s(self) -> float:
        """Give the seconds to wait now; the next wait is twice as long."""
        now_s = self._next_s
        self._next_s = min(self._longest_s, now_s * 2)
        return now_s

    def reset(self) -> None:
        """Begin with the shortest wait again."""
        self._next_s = self._first_s
