"""What becomes of a call whose caller is cancelled."""

import asyncio
import gc

import anyio
import pytest

from db.whole_calls import WholeCalls


async def test_a_call_gives_its_answer_or_its_error() -> None:
    async def broken() -> None:
        raise ConnectionError("broken")

    calls = WholeCalls()
    assert await calls.make(asyncio.sleep(0, "answer")) == "answer"
    with pytest.raises(ConnectionError, match="broken"):
        await calls.make(broken())
    await calls.end()


@pytest.mark.parametrize("cut", ["caller", "end"])
async def test_a_call_that_is_cut_still_closes_what_it_was_closing(cut: str) -> None:
    closing, may_close, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def call() -> None:
        with anyio.CancelScope(shield=True):  # as httpcore closes connections
            closing.set()
            await may_close.wait()
            closed.set()

    calls = WholeCalls()
    caller = asyncio.create_task(calls.make(call()))
    await closing.wait()
    if cut == "caller":
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
    ending = asyncio.create_task(calls.end())
    await asyncio.sleep(0)
    may_close.set()
    await ending
    assert closed.is_set()
    if cut == "end":
        await caller


async def test_a_call_whose_caller_is_cancelled_does_not_go_on() -> None:
    calls, never, over = WholeCalls(), asyncio.Event(), asyncio.Event()

    async def call() -> None:
        try:
            await never.wait()
        finally:
            over.set()

    caller = asyncio.create_task(calls.make(call()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    async with asyncio.timeout(5):
        await over.wait()


async def test_who_waits_for_a_call_that_is_ended_is_cancelled() -> None:
    calls = WholeCalls()
    caller = asyncio.create_task(calls.make(asyncio.Event().wait()))
    await asyncio.sleep(0)
    await calls.end()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_an_error_that_nobody_waits_for_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    closing, may_fail = asyncio.Event(), asyncio.Event()

    async def call() -> None:
        with anyio.CancelScope(shield=True):
            closing.set()
            await may_fail.wait()
            raise ConnectionError("broken")

    calls = WholeCalls()
    caller = asyncio.create_task(calls.make(call()))
    await closing.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    may_fail.set()
    await calls.end()
    gc.collect()
    assert caplog.records == []
