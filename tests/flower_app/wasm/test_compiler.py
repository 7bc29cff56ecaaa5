"""Compiling: once for each module, by a child that has limits, and kept where nobody else can write."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from flower_app.workloads.wasm import abi, compiler, native_code, refusals
from flower_app.workloads.wasm import engine as engines
from flower_app.workloads.wasm.compiler import Bounds, compiled
from flower_app.workloads.wasm.faults import CompileLimit, ModuleInvalid

from tests.flower_app.wasm.bomb import compile_bomb
from tests.flower_app.wasm.guests import assembled, fl1

MODULE = fl1()
SHA256 = hashlib.sha256(MODULE).hexdigest()
TEXT = b"(module)"
"""What cannot be compiled: where this becomes a module, it was taken from the cache."""


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let a process begin that holds no module ready."""

    def begin() -> None:
        monkeypatch.setattr(engines, "_engines", [])

    begin()
    return begin


@pytest.fixture
def kept(tmp_path: Path, new_process: Callable[[], None]) -> Path:
    """Have the module compiled and kept by an earlier process; gives the file."""
    compiled(MODULE, SHA256, tmp_path)
    new_process()
    (path,) = (tmp_path / native_code.FOLDER).iterdir()
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def see_that_it_is_compiled_again(cache_dir: Path) -> None:
    with pytest.raises(ModuleInvalid, match="no WebAssembly"):
        compiled(TEXT, SHA256, cache_dir)
    assert compiled(MODULE, SHA256, cache_dir).exports


def test_a_module_is_compiled_once_for_all_processes(kept: Path, tmp_path: Path) -> None:
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    os.utime(kept, (0, 0))
    assert compiled(TEXT, SHA256, tmp_path).exports
    assert kept.stat().st_mtime > 0, "what is used stays longest"


def test_a_process_compiles_a_module_once_also_where_nothing_is_kept(tmp_path: Path) -> None:
    first = compiled(MODULE, SHA256, None)
    assert compiled(TEXT, SHA256, None) is first


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 1000, hashlib.sha256(b"ELF").digest() + b"ELF"])
def test_a_file_that_is_not_whole_or_of_another_wasmtime_is_made_anew(kept: Path, tmp_path: Path, content: bytes) -> None:
    whole = kept.read_bytes()
    kept.write_bytes(content)
    see_that_it_is_compiled_again(tmp_path)
    assert len(kept.read_bytes()) == len(whole)


def test_a_bit_that_has_changed_is_seen(kept: Path, tmp_path: Path) -> None:
    whole = bytearray(kept.read_bytes())
    whole[-100] ^= 1
    kept.write_bytes(whole)
    see_that_it_is_compiled_again(tmp_path)


def make_folder_open(kept: Path) -> None:
    kept.parent.chmod(0o777)


def make_file_open(kept: Path) -> None:
    kept.chmod(0o620)


def make_folder_a_link(kept: Path) -> None:
    moved = kept.parent.rename(kept.parents[1] / "elsewhere")
    kept.parent.symlink_to(moved)


def make_file_a_link(kept: Path) -> None:
    kept.symlink_to(kept.rename(kept.parents[1] / "elsewhere"))


def make_file_a_pipe(kept: Path) -> None:
    kept.unlink()
    os.mkfifo(kept, 0o600)


@pytest.mark.parametrize("change", [make_folder_open, make_file_open, make_folder_a_link, make_file_a_link, make_file_a_pipe])
def test_native_code_that_others_may_have_written_is_not_run(kept: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    change(kept)
    see_that_it_is_compiled_again(tmp_path)


def test_native_code_of_another_user_is_not_run(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: kept.stat().st_uid + 1)
    see_that_it_is_compiled_again(tmp_path)


def test_nothing_is_kept_in_a_folder_that_others_may_write_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / native_code.FOLDER
    folder.mkdir(parents=True)
    folder.chmod(0o770)
    assert compiled(MODULE, SHA256, tmp_path).exports
    assert list(folder.iterdir()) == []
    assert capsys.readouterr().out == f"no compiled module is kept in {folder}, for others own it or may write to it\n"


def test_a_cache_folder_that_cannot_be_made_costs_only_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wasm").write_text("a file")
    assert compiled(MODULE, SHA256, tmp_path).exports
    assert capsys.readouterr().out.startswith("a module is compiled again next time, for it cannot be kept: ")


def test_code_of_another_configuration_is_another_file(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "STACK_BYTES", engines.STACK_BYTES // 2)
    see_that_it_is_compiled_again(tmp_path)
    assert len(names(tmp_path)) == 2


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_code, "MOST_FILES", 2)
    folder = tmp_path / native_code.FOLDER
    folder.mkdir(mode=0o700, parents=True)
    (folder / ".of-a-killed-writer").write_bytes(b"half")
    os.utime(folder / ".of-a-killed-writer", (1, 1))
    for number in range(4):
        native_code.keep(tmp_path, str(number), b"code")
        os.utime(next(folder.glob(f"{number}-*")), (number, number))
    assert [name[0] for name in names(tmp_path)] == ["2", "3"]


def test_two_processes_may_compile_the_same_module_at_once(tmp_path: Path) -> None:
    (tmp_path / "module").write_bytes(MODULE)
    script = (
        "import sys, pathlib; from flower_app.workloads.wasm.compiler import compiled; home = pathlib.Path(sys.argv[1]);"
        "print(len(compiled((home / 'module').read_bytes(), sys.argv[2], home / 'cache').exports))"
    )
    command = [sys.executable, "-c", script, str(tmp_path), SHA256]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [each.communicate(timeout=60)[0] for each in both] == ["4\n", "4\n"]
    assert len(names(tmp_path / "cache")) == 1


BRIEF = Bounds(cpu_s=1)


@pytest.mark.parametrize(
    ("refused", "kind"),
    [
        (compile_bomb(2000, 20_000), CompileLimit),
        (MODULE[:-9], ModuleInvalid),
        (assembled("(module (memory 1))"), ModuleInvalid),
        (fl1(abi='(func (export "fl_abi") (param v128))'), ModuleInvalid),
    ],
    ids=["a bomb", "cut short", "no memory", "vectors"],
)
def test_a_module_that_is_refused_is_not_compiled_again_in_this_process_and_the_next(
    tmp_path: Path, new_process: Callable[[], None], refused: bytes, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as first:
        compiled(refused, SHA256, tmp_path, BRIEF)
    for cache_dir in (None, tmp_path):
        if cache_dir:
            new_process()
        with pytest.raises(kind) as again:
            compiled(MODULE, SHA256, cache_dir, BRIEF)
        assert type(again.value) is kind
        assert str(again.value) == str(first.value)
    new_process()
    assert compiled(MODULE, SHA256, None, BRIEF).exports


@pytest.mark.parametrize("changed", ["bounds", "wasmtime", "rules"])
def test_a_module_that_was_refused_is_tried_again_where_something_else_decides(
    tmp_path: Path, new_process: Callable[[], None], monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    with pytest.raises(ModuleInvalid):
        compiled(MODULE[:-9], SHA256, tmp_path)
    new_process()
    if changed == "wasmtime":
        monkeypatch.setattr(engines, "version", lambda _: "51")
    if changed == "rules":
        (tmp_path / "abi.py").write_text("other rules")
        monkeypatch.setattr(abi, "__file__", str(tmp_path / "abi.py"))
    assert compiled(MODULE, SHA256, tmp_path, Bounds(cpu_s=119) if changed == "bounds" else None).exports


def end_by_its_clock(_: pytest.MonkeyPatch) -> tuple[Bounds, str]:
    return Bounds(wall_s=0.3), "longer than 0.3 s"


def kill_it(monkeypatch: pytest.MonkeyPatch) -> tuple[Bounds, str]:
    """Let it end as where the machine has no memory left."""
    begin = subprocess.Popen

    def killed(*arguments: Any, **more: Any) -> subprocess.Popen[bytes]:
        child = begin(*arguments, **more)
        child.kill()
        return child

    monkeypatch.setattr(subprocess, "Popen", killed)
    return Bounds(), "of memory"


@pytest.mark.parametrize("end", [end_by_its_clock, kill_it])
def test_what_a_busy_machine_may_have_refused_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[[pytest.MonkeyPatch], tuple[Bounds, str]]
) -> None:
    with monkeypatch.context() as patch:
        bounds, sentence = end(patch)
        with pytest.raises(CompileLimit, match=sentence):
            compiled(compile_bomb(2000, 20_000), SHA256, tmp_path, bounds)
    assert names(tmp_path) == []
    assert engines.engine().refused == {}


def test_a_process_remembers_few_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MOST_REFUSALS", 2)
    for number in range(4):
        refusals.keep(None, str(number), "rules", ModuleInvalid("no"))
    assert [bool(refusals.recall(None, str(number), "rules")) for number in range(4)] == [False, False, True, True]


def test_the_child_is_the_app_of_the_parent_also_where_it_is_unpacked_and_not_installed(tmp_path: Path) -> None:
    app = tmp_path / "unpacked"
    shutil.copytree(compiler.APP / "flower_app", app / "flower_app", ignore=shutil.ignore_patterns("__pycache__"))
    rule = app / "flower_app" / "workloads" / "wasm" / "abi.py"
    rule.write_text(rule.read_text("utf-8").replace("MOST_NAMES = 1000", "MOST_NAMES = 3"), "utf-8")
    (tmp_path / "module").write_bytes(MODULE)
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]);"
        "from flower_app.workloads.wasm.compiler import compiled;"
        "compiled(pathlib.Path(sys.argv[2]).read_bytes(), '', None)"
    )
    command = [sys.executable, "-c", script, str(app), str(tmp_path / "module")]
    told = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert told.stderr.splitlines()[-1].endswith("ModuleInvalid: the module has 0 imports and 4 exports; a site takes 3 in all")


def test_a_clientapp_that_is_killed_takes_its_compiler_along() -> None:
    script = (
        "from flower_app.workloads.wasm.compiler import compiled;"
        "from tests.flower_app.wasm.bomb import compile_bomb; compiled(compile_bomb(2000, 20_000), '', None)"
    )
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True) as clientapp:
        leader, until = psutil.Process(clientapp.pid), time.monotonic() + 60
        while not (children := leader.children()) and time.monotonic() < until:
            time.sleep(0.01)
        os.killpg(clientapp.pid, signal.SIGKILL)
    assert len(children) == 1
    _, left = psutil.wait_procs(children, timeout=5)
    assert [each for each in left if each.status() != psutil.STATUS_ZOMBIE] == []


def test_the_child_is_told_nothing_of_its_parents_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUST_BACKTRACE", "PYTHONSTARTUP", "PYTHONPATH", "HTTPS_PROXY", "TOKEN"):
        monkeypatch.setenv(name, "/from/the/parent")
    assert "/from/the/parent" not in compiler._environment().values()


def test_a_compiler_that_cannot_begin_is_no_fault_of_the_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiler, "APP", tmp_path)
    (tmp_path / "flower_app").mkdir()
    (tmp_path / "flower_app" / "__init__.py").write_text("raise SystemExit('this app is broken')")
    with pytest.raises(RuntimeError, match=r"^the compiler has ended with exit code 1: this app is broken$"):
        compiled(MODULE, SHA256, None)
