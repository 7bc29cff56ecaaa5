import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from control_plane.environment import child_environment
from control_plane.errors import IllegalTransition, StartFailed
from control_plane.identity import ProcessRecord
from control_plane.probes import Probe, log_line
from control_plane.process import State, SupervisedProcess
from control_plane.states import TRANSITIONS

from tests.control_plane.conftest import Make, Python, Until

SERVES = "import time; print('ready', flush=True); time.sleep(600)"
IGNORES_TERM = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SERVES}"
LEAVES_A_CHILD = (
    "import os, signal, sys, time\n"
    "if os.fork() == 0:\n"
    "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "    print('second', os.getpid(), flush=True); print('ready', flush=True)\n"
    "    time.sleep(600)\n"
    "time.sleep(600)"
)


def ready(process: SupervisedProcess) -> Probe:
    return log_line(process.log_path, "ready", process.log_size())


async def started(process: SupervisedProcess, argv: Sequence[str]) -> SupervisedProcess:
    await process.start(argv, child_environment(), ready=ready(process))
    return process


def second_pid(process: SupervisedProcess) -> int:
    return int(next(line for line in process.last_lines() if line.startswith("second")).split()[1])


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_started_process_runs_in_its_own_session_and_is_on_record(make: Make, python: Python) -> None:
    process = await started(make(), python(SERVES))
    assert process.state is State.RUNNING
    assert process.pid is not None
    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
    record = ProcessRecord.read(process.record_path)
    assert record is not None
    assert record.is_alive()
    assert (record.pid, record.name) == (process.pid, "child")
    await process.stop()


async def test_stop_ends_it_by_term_and_takes_its_record_away(make: Make, python: Python) -> None:
    process = await started(make(), python(SERVES))
    pid = process.pid
    assert pid is not None
    await process.stop()
    assert process.state is State.STOPPED
    assert process.exit is not None
    assert (process.exit.rc, process.exit.signal, process.exit.reason) == (None, signal.SIGTERM, "stopped")
    assert not process.record_path.exists()
    assert process.pid is None
    assert not psutil.pid_exists(pid)
    await process.stop()


async def test_a_process_that_ignores_term_is_killed_after_the_grace(make: Make, python: Python) -> None:
    process = await started(make(grace_s=0.1), python(IGNORES_TERM))
    await process.stop()
    assert process.state is State.STOPPED
    assert process.exit is not None
    assert process.exit.signal == signal.SIGKILL
    assert process.exit.reason == "stopped, killed after 0.1 s"


async def test_stop_kills_the_group_although_its_leader_left_at_term(make: Make, python: Python) -> None:
    process = await started(make(), python(LEAVES_A_CHILD))
    second = second_pid(process)
    await process.stop()
    assert process.exit is not None
    assert process.exit.signal == signal.SIGTERM
    assert is_gone(second)


async def test_when_the_leader_is_killed_the_rest_of_its_group_goes_too(make: Make, python: Python) -> None:
    process = await started(make(), python(LEAVES_A_CHILD))
    second = second_pid(process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    end = await process.wait()
    assert process.state is State.FAILED
    assert end.reason == "killed by signal 9 (SIGKILL)"
    assert is_gone(second)


async def test_exit_code_zero_is_exited_and_another_is_failed_with_its_last_lines(
    make: Make, python: Python, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    waits = f"import os, sys\nprint('ready')\nwhile not os.path.exists({str(go)!r}): pass\n"
    process = await started(make(), python(waits))
    go.touch()
    assert (await process.wait()).rc == 0
    assert process.state is State.EXITED
    go.unlink()
    process = await started(process, python(waits + "print('\\n'.join(f'line {n}' for n in range(30)))\nsys.exit(3)"))
    go.touch()
    end = await process.wait()
    assert process.state is State.FAILED
    assert (end.rc, end.signal, end.reason) == (3, None, "exit code 3")
    assert end.last_lines == [f"line {n}" for n in range(10, 30)]


async def test_an_exit_during_the_start_fails_it_with_the_last_lines_of_this_start_only(make: Make, python: Python) -> None:
    process = await started(make(), python("print('ready of the first'); import time; time.sleep(600)"))
    await process.stop()
    with pytest.raises(StartFailed) as failure:
        await started(process, python("print('no licence'); raise SystemExit(7)"))
    assert process.state is State.FAILED
    assert failure.value.detail == "child did not start: exit code 7 before it was ready."
    assert failure.value.facts == {"name": "child", "rc": 7, "signal": None, "last_lines": ["no licence"]}
    assert not process.record_path.exists()


async def test_a_program_that_does_not_exist_fails_the_start_and_is_named(make: Make) -> None:
    process = make()
    with pytest.raises(StartFailed) as failure:
        await started(process, ["no-such-program"])
    assert failure.value.facts["rc"] == 127
    assert "no-such-program" in failure.value.facts["last_lines"][-1]


async def test_a_process_that_is_not_ready_in_time_is_ended_and_failed(make: Make, python: Python) -> None:
    process = make(ready_timeout_s=0.2)
    with pytest.raises(StartFailed, match=r"not ready within 0\.2 s"):
        await started(process, python("import time; time.sleep(600)"))
    assert process.state is State.FAILED
    assert process.pid is None


async def test_a_probe_that_hangs_does_not_hold_the_start_for_ever(make: Make, python: Python) -> None:
    async def hangs() -> bool:
        return await asyncio.Event().wait()

    process = make(ready_timeout_s=0.2)
    with pytest.raises(StartFailed, match="not ready within"):
        await process.start(python(SERVES), child_environment(), ready=hangs)
    assert process.state is State.FAILED


async def test_a_probe_that_raises_ends_the_process_and_is_heard(make: Make, python: Python) -> None:
    async def broken() -> bool:
        raise KeyError("address")

    process = make()
    with pytest.raises(KeyError):
        await process.start(python(SERVES), child_environment(), ready=broken)
    assert (await process.wait()).reason == "its start was given up (KeyError)"
    assert process.state is State.FAILED


async def test_stop_during_the_start_ends_in_stopped_and_the_start_fails(make: Make, python: Python, until: Until) -> None:
    process = make()
    starting = asyncio.create_task(
        process.start(python("import time; time.sleep(600)"), child_environment(), ready=ready(process))
    )
    await until(lambda: process.state is State.STARTING)
    await process.stop()
    assert process.state is State.STOPPED
    with pytest.raises(StartFailed, match="stopped"):
        await starting


async def test_a_stop_that_is_cancelled_still_ends_in_kill(make: Make, python: Python, until: Until) -> None:
    process = await started(make(grace_s=0.2), python(IGNORES_TERM))
    stopping = asyncio.create_task(process.stop())
    await until(lambda: process.state is State.STOPPING)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert (await process.wait()).signal == signal.SIGKILL
    assert process.state is State.STOPPED


async def test_a_second_start_is_refused_while_it_is_alive(make: Make, python: Python) -> None:
    process = await started(make(), python(SERVES))
    pid = process.pid
    with pytest.raises(IllegalTransition):
        await started(process, python(SERVES))
    with pytest.raises(IllegalTransition):
        await process.adopt()
    assert process.pid == pid
    await process.stop()


async def test_each_transition_is_told_once_in_order_and_a_failing_listener_changes_nothing(make: Make, python: Python) -> None:
    told: list[tuple[State, bool]] = []

    async def listen(process: SupervisedProcess) -> None:
        told.append((process.state, process.exit is None))
        raise RuntimeError("the database is away")

    process = await started(make(on_change=listen), python(SERVES))
    await process.stop()
    assert told == [(State.STARTING, True), (State.RUNNING, True), (State.STOPPING, True), (State.STOPPED, False)]


async def test_a_listener_that_starts_the_process_itself_is_refused_not_deadlocked(make: Make, python: Python) -> None:
    refused: list[RuntimeError] = []

    async def restart(process: SupervisedProcess) -> None:
        try:
            await process.stop()
        except RuntimeError as error:
            refused.append(error)

    process = await started(make(on_change=restart), python(SERVES))
    await process.stop()
    assert len(refused) == 4


SUPERVISOR = """
import asyncio, os, signal, sys
from pathlib import Path
from control_plane.environment import child_environment
from control_plane.probes import log_line
from control_plane.process import SupervisedProcess

async def main():
    process = SupervisedProcess("child", Path(sys.argv[1]))
    await process.start(sys.argv[2:], child_environment(), ready=log_line(process.log_path, "ready"))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def start_by_a_supervisor_that_is_killed(folder: Path, argv: Sequence[str]) -> int:
    supervisor = subprocess.run([sys.executable, "-c", SUPERVISOR, str(folder), *argv], check=False)
    assert supervisor.returncode == -signal.SIGKILL
    record = ProcessRecord.read(folder / "proc.json")
    assert record is not None
    assert record.is_alive()
    return record.pid


async def test_a_process_survives_the_kill_of_its_supervisor_and_is_adopted_by_the_next_one(
    make: Make, python: Python, tmp_path: Path
) -> None:
    pid = start_by_a_supervisor_that_is_killed(tmp_path, python(SERVES))
    process = make()
    assert await process.adopt()
    assert (process.state, process.pid) == (State.RUNNING, pid)
    assert process.started_at is not None
    await process.stop()
    assert process.state is State.STOPPED
    assert is_gone(pid)


async def test_an_adopted_process_that_ends_is_lost_because_nobody_tells_us_its_code(
    make: Make, python: Python, tmp_path: Path
) -> None:
    pid = start_by_a_supervisor_that_is_killed(tmp_path, python(LEAVES_A_CHILD))
    process = make()
    assert await process.adopt(ready=log_line(process.log_path, "ready"))
    second = second_pid(process)
    os.kill(pid, signal.SIGKILL)
    end = await process.wait()
    assert process.state is State.LOST
    assert (end.rc, end.signal, end.reason) == (None, None, "ended, exit code unknown")
    assert is_gone(second)


async def test_a_process_that_died_while_nobody_watched_is_lost_and_its_group_is_cleared(
    make: Make, python: Python, tmp_path: Path
) -> None:
    pid = start_by_a_supervisor_that_is_killed(tmp_path, python(LEAVES_A_CHILD))
    process = make()
    second = second_pid(process)
    os.kill(pid, signal.SIGKILL)
    record = ProcessRecord.read(process.record_path)
    assert record is not None
    while record.is_alive():
        pass
    assert not await process.adopt()
    assert process.state is State.LOST
    assert process.exit is not None
    assert process.exit.reason == "it was gone when its supervisor came back"
    assert is_gone(second)
    assert not process.record_path.exists()


async def test_a_pid_that_belongs_to_another_process_now_is_lost_and_left_alone(
    make: Make, bystander: subprocess.Popen[bytes]
) -> None:
    process = make()
    ProcessRecord(bystander.pid, "1", "child", "2026-11-22T08:00:00.000Z").write(process.record_path)
    assert not await process.adopt()
    assert process.state is State.LOST
    assert bystander.poll() is None


async def test_nothing_on_record_is_nothing_to_adopt(make: Make) -> None:
    process = make()
    assert not await process.adopt()
    assert process.state is State.STOPPED


def test_a_child_whose_supervisor_dies_before_the_record_is_written_never_begins(tmp_path: Path, python: Python) -> None:
    # The supervisor is killed while it writes proc.json: the child is at its gate then.
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from control_plane import gate\n"
        "class Dies(gate.ProcessRecord):\n"
        "    def write(self, path):\n"
        "        print(self.pid, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "gate.ProcessRecord = Dies\n"
        "here = Path(sys.argv[1])\n"
        "gate.start_at_gate('child', sys.argv[2:], {}, here / 'child.log', here / 'proc.json')\n"
    )
    begun = python(f"open({str(tmp_path / 'begun')!r}, 'w')")
    supervisor = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *begun], stdout=subprocess.PIPE, text=True, check=False
    )
    assert supervisor.returncode == -signal.SIGKILL
    pid = int(supervisor.stdout)
    while not is_gone(pid):
        pass
    assert not (tmp_path / "begun").exists()


def test_every_state_has_its_transitions_and_every_state_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    assert set().union(*TRANSITIONS.values()) == set(State)
    words = set((SupervisedProcess.__doc__ or "").replace("(", " ").split())
    assert {str(state) for state in State} <= words
