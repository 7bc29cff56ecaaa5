"""What the engine has done with an update it lets go of at once, without the garbage collector's help."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.flower_app.conftest import Federation


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_of_the_updates_of_a_mean_one_at_a_time_is_in_memory(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower_app.sent.PULL_BYTES", 1)
    replies: dict[str, weakref.ref[Any]] = {}
    alive: list[int] = []
    pull = federation.grid.pull_messages

    def pulled(message_ids: Any) -> Any:
        alive.append(sum(reply() is not None for reply in replies.values()))
        found = pull(message_ids)
        for reply in found:
            replies[reply.metadata.reply_to_message_id] = weakref.ref(reply.content)
        return found

    monkeypatch.setitem(federation.grid.__dict__, "pull_messages", pulled)
    federation.run()
    assert len(replies) == 9
    assert max(alive) == 0, "whoever pulls the next one has let go of the last"
