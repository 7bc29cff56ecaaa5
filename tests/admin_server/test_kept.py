"""A process that is kept: started again when it dies unasked, not when it is stopped or never came up."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from admin_server.kept import Kept, Launch
from control_plane.environment import child_environment
from control_plane.errors import StartFailed
from control_plane.probes import log_line
from control_plane.process import State, SupervisedProcess

READY = "import sys, time; print('ready', flush=True); time.sleep(60)"


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    process = SupervisedProcess("child", tmp_path, ready_timeout_s=10)

    async def launch() -> Launch:
        ready = log_line(process.log_path, "ready", process.log_size())
        return Launch([sys.executable, "-c", READY], child_environment(), ready)

    kept = Kept(process, launch)
    yield kept
    await kept.stop()


async def run_again(kept: Kept, seconds: float = 30) -> None:
    for _ in range(int(seconds * 20)):
        if await kept.look():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not started again within {seconds} s")


async def test_what_dies_unasked_is_started_again(kept: Kept) -> None:
    await kept.start()
    first = kept.process.pid
    assert kept.process._record is not None
    kept.process._record.signal_group(signal.SIGKILL)
    await kept.process.wait()
    assert "it is started again" in kept.view()["reason"]
    await run_again(kept)
    assert kept.process.state is State.RUNNING
    assert kept.process.pid != first


async def test_what_was_stopped_stays_stopped(kept: Kept) -> None:
    await kept.start()
    await kept.stop()
    assert not await kept.look()
    assert kept.view()["state"] == "stopped"


async def test_a_first_start_that_fails_is_told_and_not_repeated(tmp_path: Path) -> None:
    process = SupervisedProcess("child", tmp_path, ready_timeout_s=10)

    async def launch() -> Launch:
        argv = [sys.executable, "-c", "print('no port left'); raise SystemExit(2)"]
        return Launch(argv, child_environment(), log_line(process.log_path, "ready"))

    kept = Kept(process, launch)
    with pytest.raises(StartFailed) as failed:
        await kept.start()
    assert failed.value.facts["last_lines"] == ["no port left"]
    assert not kept.wanted
    assert (kept.view()["state"], kept.view()["last_lines"]) == ("failed", ["no port left"])
