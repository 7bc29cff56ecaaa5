"""What sites are asked to do, given as the answer to a request that they hold open: runs that are over, messages cancelled."""

import time
from collections import defaultdict, deque

from admin_server.feed import Feed

HOLD_S = 25.0
TOPIC = "wanted"
RUNS_KEPT = 200
MESSAGES_KEPT = 100


class Wanted:
    """The board that all sites read. seq is a time in ms, so that it also grows over our own restarts."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._seq = _now_ms()
        self._over: deque[str] = deque(maxlen=RUNS_KEPT)
        self._cancelled: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=MESSAGES_KEPT))
        self._node_seq: dict[str, int] = {}
        self._removed: set[str] = set()

    def run_over(self, flower_run_id: str) -> None:
        """No ClientApp of this run is to go on."""
        if flower_run_id not in self._over:
            self._over.append(flower_run_id)
            self._seq = self._next()
            self._feed.publish([TOPIC])

    def cancel(self, flower_node_id: str, message_id: str) -> None:
        """Nobody waits for the answer to this message any more."""
        if message_id and message_id not in self._cancelled[flower_node_id]:
            self._cancelled[flower_node_id].append(message_id)
            self._touch(flower_node_id)

    def remove(self, node_id: str) -> None:
        """The node was taken out of the project."""
        self._removed.add(node_id)
        self._touch(node_id)

    def restore(self, node_id: str) -> None:
        """The node enrolled again."""
        self._removed.discard(node_id)

    def seq(self, *names: str | None) -> int:
        """Give the number of the newest wish that concerns a node, known by its id and its Flower id."""
        return max([self._seq, *(self._node_seq.get(name, 0) for name in names if name)])

    def view(self, node_id: str, flower_node_id: str | None) -> dict[str, object]:
        """Give all wishes that a node has to know of."""
        cancelled = list(self._cancelled[flower_node_id]) if flower_node_id in self._cancelled else []
        return {
            "seq": self.seq(node_id, flower_node_id),
            "over_runs": list(self._over),
            "cancelled_messages": cancelled,
            "removed": node_id in self._removed,
        }

    async def wait(self, node_id: str, flower_node_id: str | None, after: int, hold_s: float = HOLD_S) -> dict[str, object]:
        """Answer as soon as there is a wish newer than `after`, and at the latest after hold_s."""
        until = time.monotonic() + hold_s
        with self._feed.listening(TOPIC) as news:
            while self.seq(node_id, flower_node_id) <= after and not self._feed.closed:
                left = until - time.monotonic()
                if left <= 0:
                    break
                await news.wait(left)
        return self.view(node_id, flower_node_id)

    def _touch(self, name: str) -> None:
        self._node_seq[name] = self._next()
        self._feed.publish([TOPIC])

    def _next(self) -> int:
        return max(_now_ms(), self._seq + 1, *(seq + 1 for seq in self._node_seq.values()), 0)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
