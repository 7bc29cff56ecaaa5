"""Modules that attack their site: each is stopped, by the fault that a record names, and nothing of it is left."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from flower_app.workloads.wasm import faults
from flower_app.workloads.wasm.compiler import Bounds, compiled
from flower_app.workloads.wasm.faults import CompileLimit, TaskFault, TaskTimeout, TaskTrap
from flower_app.workloads.wasm.sandbox import run_module
from flower_app.workloads.wasm.task import Limits

from tests.flower_app.wasm.attacks import ATTACKS, LOOP
from tests.flower_app.wasm.bomb import compile_bomb
from tests.flower_app.wasm.guests import BRIEF, SMALL, fl1, task


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    """See that no compiler outlives its test; other children are fixtures'."""
    before = set(psutil.Process().children())
    yield
    assert set(psutil.Process().children()) <= before


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, attacks in ATTACKS.items() for name in attacks])
def test_an_attack_is_told_by_name(kind: type[TaskFault], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence, make = ATTACKS[kind][name]
    limits = BRIEF if kind is TaskTimeout else SMALL
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=sentence) as told:
        run_module(make(), task(), limits, None)
    assert type(told.value) is kind
    assert str(told.value).isprintable()
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_ties_up_the_compiler_is_given_up() -> None:
    bomb = compile_bomb(2000, 20_000)
    with pytest.raises(CompileLimit, match=r"^compiling the module takes more than 1 s of CPU$"):
        compiled(bomb, "bomb", None, Bounds(cpu_s=1))
    with pytest.raises(CompileLimit, match=r"^compiling the module takes more than 400 MB of memory$"):
        compiled(bomb, "bomb", None, Bounds(memory_bytes=400 << 20))
    with pytest.raises(CompileLimit, match=r"^compiling the module takes longer than 0\.5 s$"):
        compiled(bomb, "bomb", None, Bounds(wall_s=0.5))


def test_every_fault_has_an_attack_here_or_a_test_of_where_modules_come_from() -> None:
    kinds = {kind for kind in vars(faults).values() if isinstance(kind, type) and issubclass(kind, TaskFault)}
    elsewhere = {faults.ModuleMissing, faults.ModuleChanged, faults.ModuleNotAllowed}
    assert kinds - {TaskFault} == ATTACKS.keys() | {CompileLimit} | elsewhere


def test_the_memory_of_a_module_is_free_again_when_it_has_been_stopped() -> None:
    fills = "(drop (memory.grow (i32.const 4000))) (memory.fill (i32.const 0) (i32.const 1) (i32.const 262000000)) unreachable"
    limits, process = Limits(memory_bytes=300 << 20), psutil.Process()
    run_module(fl1(), task(), limits, None)
    before = process.memory_info().rss
    with pytest.raises(TaskTrap):
        run_module(fl1(fills), task(), limits, None)
    gc.collect()
    assert process.memory_info().rss < before + (50 << 20)


def test_a_process_without_addresses_for_a_module_says_so() -> None:
    script = """
        import resource
        from flower_app.workloads.wasm.sandbox import run_module
        from tests.flower_app.wasm.guests import BRIEF, SMALL, fl1, task
        run_module(fl1(), task(), SMALL, None)
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
        run_module(fl1(), task(), SMALL, None)
    """
    told = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert "TaskMemory: this process is given too few addresses for a module, which takes 4 GB of them: mmap" in told.stderr


def test_no_thread_is_left_when_no_module_runs() -> None:
    run_module(fl1(), task(), SMALL, None)
    for thread in threading.enumerate():
        if thread.name == "wasm-epochs":
            thread.join(10)
            assert not thread.is_alive()


def test_what_a_stopped_module_was_given_can_be_given_to_the_next() -> None:
    with pytest.raises(TaskTimeout):
        run_module(fl1(LOOP), task(), BRIEF, None)
    assert run_module(fl1(), task(), SMALL, None).metrics == {"loss": 0.5}
