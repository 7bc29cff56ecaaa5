"""One engine a process, made when a module runs and not before, and again after a fork."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from flower_app.workloads.wasm import engine as engines
from flower_app.workloads.wasm.faults import TaskTimeout
from flower_app.workloads.wasm.sandbox import run_module
from flower_app.workloads.wasm.task import Limits

from tests.flower_app.wasm.guests import SMALL, fl1, task

LOOP = "(loop $again (br $again))"


def run_script(script: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_import_makes_no_engine_and_no_thread() -> None:
    script = """
        import threading
        from flower_app.workloads.wasm import engine, sandbox
        print(threading.active_count(), engine._engines)
    """
    assert run_script(script) == "1 []"


def test_a_fork_has_an_engine_of_its_own_whatever_its_parent_has_run() -> None:
    script = """
        import os
        from flower_app.workloads.wasm import engine, faults, sandbox
        from tests.flower_app.wasm.guests import BRIEF, SMALL, fl1, task
        run = lambda module, limits: sandbox.run_module(module, task(), limits, None)
        run(fl1(), SMALL)
        child = os.fork()
        run(fl1(), SMALL)
        try:
            run(fl1("(loop $again (br $again))"), BRIEF)
        except faults.TaskTimeout:
            print(child == 0, len(engine._engines), flush=True)
        if child:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert sorted(run_script(script).splitlines()) == ["False 1", "True 2"]


def test_without_wasmtime_a_site_is_told_what_to_install() -> None:
    script = """
        import sys
        sys.modules["wasmtime"] = None
        from flower_app.config import ConfigError
        try:
            from flower_app.workloads.wasm.sandbox import run_module
        except ConfigError as error:
            print(error)
    """
    assert run_script(script) == "workload wasm needs wasmtime where a module runs: pip install 'espalier[wasm]'"


def test_modules_that_run_at_once_have_each_their_own_time_and_end() -> None:
    def run(train: str, limits: Limits) -> str:
        together.wait()
        try:
            return str(run_module(fl1(train), task(), limits, None).metrics)
        except TaskTimeout as late:
            return str(late)

    run_module(fl1(), task(), SMALL, None)
    together = threading.Barrier(3)
    limits = [SMALL, Limits(wall_s=0.1), Limits(wall_s=0.2)]
    with ThreadPoolExecutor(3) as pool:
        told = list(pool.map(run, ["", LOOP, LOOP], limits))
    assert told[0] == "{'loss': 0.5}"
    assert told[1].startswith("the module ran longer than the 0.1 s")
    assert told[2].startswith("the module ran longer than the 0.2 s")
    assert engines.engine()._running == 0


def test_ticks_that_are_late_are_not_of_a_module_that_starts_meanwhile() -> None:
    here = engines.Engine()
    here._due -= 1000
    store = engines.wasmtime.Store(here.native)
    here.set_deadline(store, 60)
    here._go_on()
    spoken = engines.wasmtime.Instance(store, engines.wasmtime.Module(here.native, fl1()), []).exports(store)["fl_abi"]
    assert isinstance(spoken, engines.wasmtime.Func)
    assert spoken(store) == 1


def test_an_engine_holds_few_modules_ready() -> None:
    here = engines.Engine()
    module = engines.wasmtime.Module(here.native, b"\0asm\1\0\0\0")
    for number in range(engines.MOST_MODULES + 1):
        here.keep(str(number), module)
    assert here.module("0") is None
    assert all(here.module(str(number)) is module for number in range(1, engines.MOST_MODULES + 1))


def test_the_digest_of_the_configuration_says_what_code_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    before = engines.config_digest()
    assert engines.config_digest() == before
    monkeypatch.setattr(engines, "OFF", engines.OFF[1:])
    assert engines.config_digest() != before
