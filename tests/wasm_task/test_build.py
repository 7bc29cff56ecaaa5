"""task.wasm.json is what the source gives, wherever it is built."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from tests.wasm_task.guest import SOURCE, build, built

WASI = "wasi_snapshot_preview1"


def names(kind: str, module: wasmtime.Module) -> list[str]:
    return sorted(str(each.name) for each in getattr(module, kind))


def test_a_copy_in_another_folder_with_an_empty_cache_gives_the_committed_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "some where else"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(tmp_path / "cache"))
    wasm = build().build("fl1", copy)
    committed = json.loads(build().PACKED.read_text("utf-8"))
    assert (tmp_path / "cache").is_dir()
    assert hashlib.sha256(wasm).hexdigest() == committed["sha256"]
    assert wasm == base64.b64decode(committed["wasm"]) == built("fl1")
    assert committed.keys() == {"abi", "ziglang", "sha256", "wasm"}


@pytest.mark.parametrize("abi", ["fl1", "propeller"])
def test_no_module_says_where_it_was_built(abi: str) -> None:
    words = (SOURCE.name, str(SOURCE.parent), "passes.c", "tile.h", "zig", "clang")
    assert [word for word in words if word.encode() in built(abi)] == []


def test_the_module_for_fl1_imports_nothing_and_exports_what_the_abi_has() -> None:
    module = wasmtime.Module(wasmtime.Engine(), built("fl1"))
    assert names("imports", module) == []
    assert names("exports", module) == ["fl_abi", "fl_alloc", "fl_train", "memory"]


def test_the_module_for_propeller_imports_four_functions_of_wasi() -> None:
    module = wasmtime.Module(wasmtime.Engine(), built("propeller"))
    assert names("imports", module) == ["environ_get", "environ_sizes_get", "fd_write", "proc_exit"]
    assert {each.module for each in module.imports} == {WASI}
    assert names("exports", module) == ["_start", "memory"]


@pytest.mark.parametrize("abi", ["fl1", "propeller"])
def test_no_relaxed_instruction_is_needed(abi: str) -> None:
    config = wasmtime.Config()
    config.wasm_relaxed_simd = False
    wasmtime.Module.validate(wasmtime.Engine(config), built(abi))


def test_one_command_writes_what_the_app_brings_and_checks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    committed, target = build().PACKED.read_text("utf-8"), tmp_path / "task.wasm.json"
    monkeypatch.setattr(build(), "PACKED", target)
    assert build().main(["--check"]) == 1
    assert capsys.readouterr().err == "task.wasm.json is not what this source gives: run python wasm-task/build.py\n"
    assert not target.exists()
    assert build().main([]) == 0
    assert target.read_text("utf-8") == committed
    assert build().main(["--check"]) == 0
    assert capsys.readouterr().out == 2 * f"task.wasm.json: sha256 {json.loads(committed)['sha256']}\n"


def test_both_modules_are_written_to_a_folder_that_is_named(tmp_path: Path) -> None:
    command = [sys.executable, str(SOURCE / "build.py"), "--to", str(tmp_path / "new" / "folder")]
    subprocess.run(command, cwd=tmp_path, check=True, env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": ""})
    assert (tmp_path / "new" / "folder" / "fl1.wasm").read_bytes() == built("fl1")
    assert (tmp_path / "new" / "folder" / "propeller.wasm").read_bytes() == built("propeller")


def test_another_ziglang_builds_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(build(), "version", lambda _: "0.16.0")
    assert build().main([]) == 1
    assert capsys.readouterr().err == "the guest is built by ziglang 0.17.1, and here is 0.16.0: pip install ziglang==0.17.1\n"


def test_what_does_not_compile_is_told(tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "memory.c").write_text("int unfinished(", "utf-8")
    failed: Any = build().BuildFailed
    with pytest.raises(failed, match=r"^fl1\.c and what it needs do not compile:\nmemory\.c:1:16: error: "):
        build().build("fl1", tmp_path)
