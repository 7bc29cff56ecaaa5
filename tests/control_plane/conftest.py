"""Real children, small and quick, and a way to wait for what they do."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from control_plane.identity import ProcessRecord
from control_plane.process import SupervisedProcess

Until = Callable[[Callable[[], bool]], Awaitable[None]]
Make = Callable[..., SupervisedProcess]
Python = Callable[[str], Sequence[str]]


@pytest.fixture
def python() -> Python:
    """Give the argv of a child that runs a line of Python, without site packages, so that it starts in milliseconds."""
    return lambda code: [sys.executable, "-I", "-S", "-u", "-c", code]


@pytest.fixture
def bystander(python: Python) -> Iterator["subprocess.Popen[bytes]"]:
    """Give a process that nobody supervises, the leader of its own group."""
    with subprocess.Popen(python("input()"), stdin=subprocess.PIPE, start_new_session=True) as process:
        yield process
        process.kill()


@pytest.fixture
def until() -> Until:
    """Wait for a condition, 10 s at most."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - other processes set no event of ours
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Make supervised processes in tmp_path; whatever is left of them is killed and reaped at the end."""
    made: list[SupervisedProcess] = []

    def one(name: str = "child", **options: Any) -> SupervisedProcess:
        made.append(SupervisedProcess(name, tmp_path, **options))
        return made[-1]

    yield one
    for process in made:
        if process.is_alive and (record := ProcessRecord.read(process.record_path)):
            with suppress(ProcessLookupError):
                os.killpg(record.pid, signal.SIGKILL)
            await process.wait()
