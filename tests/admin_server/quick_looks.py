"""A server that looks at everything often, and what its log may hold of an outage."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest


def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have database, lease and failed steps looked at 20 times a second, as if an outage had lasted for long."""
    monkeypatch.setattr("admin_server.app.LOOK_S", 0.05)
    monkeypatch.setattr("admin_server.app.RENEW_S", 0.05)
    monkeypatch.setattr("admin_server.app.TELL_S", 0.05)
    monkeypatch.setattr("admin_server.background.PAUSE_AFTER_FAILURE_S", 0.05)


async def eventually(look: Callable[[], Awaitable[Any]], within_s: float = 60) -> Any:
    """Wait until something is so, and give it."""
    async with asyncio.timeout(within_s):
        while not (found := await look()):  # noqa: ASYNC110 - what is looked at tells nobody
            await asyncio.sleep(0.05)
    return found


def assert_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """No traceback, and no sentence twice, however often the outage was met; requests have a line each."""
    ours = [
        one for one in caplog.records if one.name.startswith(("admin_server", "db", "asyncio")) and one.levelno >= logging.WARNING
    ]
    assert [one.getMessage() for one in ours if one.exc_info] == []
    told = Counter(one.getMessage() for one in ours)
    assert told
    assert [message for message, times in told.items() if times > 1] == []
