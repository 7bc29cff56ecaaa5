"""Replies that are still on their way hold nobody up.

SuperLink gives a reply's head out once, when the first of its objects may not be there yet. Flower's Grid (1.41) then waits for
the objects, and whoever pulls waits with it: for a slow upload, or, when its node has died meanwhile, for the three minutes
after which SuperLink forgets it. Here a pull looks once and gives what is whole; the rest is looked for at later pulls.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flower_runtime.patch import original, replace

_GRID, _CLIENT, _UTILS = "flwr.superlink.grid.http_grid", "flwr.supercore.runtime", "flwr.supercore.inflatable.inflatable_utils"
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 1.0
Fetch = Callable[[str], bytes]


@dataclass
class _Arriving:
    """A reply whose head is here. missing: the object that was not there at the last look."""

    head: Any
    tree: Any
    missing: str | None = None
    wait_s: float = _FIRST_WAIT_S
    look_at: float = 0.0


class Arrivals:
    """Takes the place of three of Flower's names; one for a process, whose Grid is used by one thread at a time."""

    def __init__(self) -> None:
        self._arriving: dict[str, _Arriving] = {}
        """By the id of the message that is answered."""
        self._unfinished: set[str] = set()
        self._pull_objects = original(_GRID, "pull_objects")
        self._unavailable, self._pull_error = original(_UTILS, "ObjectUnavailableError"), original(_UTILS, "ObjectPullError")

    def install(self) -> None:
        """Have Flower's Grid pull what is whole. Once, before the ServerApp runs."""
        grid, client = original(_GRID, "HttpGrid"), original(_CLIENT, "RuntimeHttpClient")
        pull_messages, pull_heads = grid.pull_messages, client.PullMessages
        grid.pull_messages = lambda this, message_ids: self._whole(pull_messages(this, message_ids))
        client.PullMessages = lambda this, request: self._heads(request, lambda asked: pull_heads(this, asked))
        replace(_GRID, "pull_objects", self._objects)

    def _whole(self, messages: list[Any]) -> list[Any]:
        """Leave out what Flower takes for lost because it is not whole yet."""
        unfinished, self._unfinished = self._unfinished, set()
        return [message for message in messages if message.metadata.reply_to_message_id not in unfinished]

    def _heads(self, request: Any, pull: Callable[[Any], Any]) -> Any:
        """Give the heads that are new, and again those whose objects were not all there."""
        asked = set(request.message_ids)
        answer = pull(type(request)(message_ids=asked - self._arriving.keys()))
        for head, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            answered = head.metadata.reply_to_message_id
            self._arriving[answered] = _Arriving(head, tree)
            asked.add(answered)
        here = [each for answered, each in self._arriving.items() if answered in asked]
        return type(answer)(messages_list=[each.head for each in here], message_object_trees=[each.tree for each in here])

    def _objects(self, object_ids: list[str], pull_object_fn: Fetch) -> dict[str, bytes]:
        """Pull all objects of a reply. Raises ObjectPullError, as Flower's own does, also where one is not there yet."""
        answered = next(key for key, each in self._arriving.items() if each.head.metadata.message_id in object_ids)
        arriving = self._arriving[answered]
        missing = set[str]()

        def fetch(object_id: str) -> bytes:
            try:
                return pull_object_fn(object_id)
            except self._unavailable:
                missing.add(object_id)
                raise

        now = time.monotonic()
        if now < arriving.look_at:
            self._unfinished.add(answered)
            raise self._pull_error(arriving.missing, "it was not there a moment ago")
        first = arriving.missing or object_ids[-1]  # they are sent in this order: once the last is there, so are the others
        try:
            found: dict[str, bytes] = self._pull_objects([first], fetch, max_tries_per_object=1)
            found |= self._pull_objects([each for each in object_ids if each != first], fetch, max_tries_per_object=1)
        except self._pull_error:
            if missing:
                self._unfinished.add(answered)
                arriving.missing, arriving.look_at = missing.pop(), now + arriving.wait_s
                arriving.wait_s = min(2 * arriving.wait_s, _LONGEST_WAIT_S)
            else:  # SuperLink has forgotten it
                del self._arriving[answered]
            raise
        del self._arriving[answered]
        return found
