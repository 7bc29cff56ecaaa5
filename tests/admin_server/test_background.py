"""Steps that are repeated whatever they raise, and what of that is logged."""

import asyncio
import logging

import pytest
from admin_server.background import DONE, Background

from db.errors import DatabaseFull, DatabaseUnavailable


async def test_a_step_that_fails_again_and_again_is_logged_once_a_reason_until_it_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("admin_server.background.PAUSE_AFTER_FAILURE_S", 0)
    reasons = [DatabaseUnavailable("away"), DatabaseFull("full"), ValueError("a"), ValueError("b")]
    coming = [*reasons * 3, None, *reasons]
    over = asyncio.Event()

    async def step() -> object:
        if not coming:
            over.set()
            return DONE
        if (reason := coming.pop(0)) is not None:
            raise reason
        return None

    steps = Background()
    with caplog.at_level(logging.INFO):
        steps.repeat("it", step, 0)
        await over.wait()
    told = [record.getMessage() for record in caplog.records]
    four = ["it waits: away", "it waits: full", "it failed and is tried again", "it failed and is tried again"]
    assert told == [*four, "it goes on", *four]
    assert len([record for record in caplog.records if record.exc_info]) == 4
    await steps.end()
