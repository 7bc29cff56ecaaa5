"""Small modules, written as text, that do one thing each; and a task for them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import wasmtime
from flower_app.workloads.wasm.task import Hyperparameters, Limits, Task
from hypothesis import strategies as st

REPORT = b'{"metrics":{"loss":0.5},"steps":3}'
REPORT_AT = 64
MEMORY = '(memory (export "memory") 2)'
ABI = '(func (export "fl_abi") (result i32) i32.const 1)'
ALLOC = """
  (global $top (mut i32) (i32.const 66560))
  (func (export "fl_alloc") (param $size i32) (result i32) (local $at i32) (local $missing i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.and (i32.add (i32.add (global.get $top) (local.get $size)) (i32.const 15)) (i32.const -16)))
    (local.set $missing (i32.sub (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
    (if (i32.gt_s (local.get $missing) (i32.const 0))
      (then (if (i32.eq (memory.grow (i32.add (i32.shr_u (local.get $missing) (i32.const 16)) (i32.const 1))) (i32.const -1))
        (then (return (i32.const 0))))))
    (local.get $at))"""
TRAIN_TYPE = (
    "(param $config i32) (param $config_size i32) (param $model i32) (param $model_size i32) "
    "(param $data i32) (param $data_size i32) (result i64)"
)
TENSORS = "(i32.add (local.get $model) (i32.add (i32.const 8) (i32.load (local.get $model))))"
"""Where the first array of the model begins: behind the length of the header and the header."""
SMALL = Limits(memory_bytes=16 << 20, wall_s=30, table_elements=1000, output_bytes=1 << 20, module_bytes=1 << 20)
BRIEF = replace(SMALL, wall_s=0.3)
"""For modules that do not end by themselves."""
WASI_CALLS = {
    "fd_write": "(param i32 i32 i32 i32) (result i32)",
    "poll_oneoff": "(param i32 i32 i32 i32) (result i32)",
    "clock_time_get": "(param i32 i64 i32) (result i32)",
    "random_get": "(param i32 i32) (result i32)",
    "environ_sizes_get": "(param i32 i32) (result i32)",
    "environ_get": "(param i32 i32) (result i32)",
    "fd_read": "(param i32 i32 i32 i32) (result i32)",
    "path_open": "(param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)",
    "proc_exit": "(param i32)",
}


def assembled(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def data(at: int, content: bytes) -> str:
    """Have these bytes in memory from the start."""
    text = "".join(f"\\{byte:02x}" for byte in content)
    return f'(data (i32.const {at}) "{text}")'


def fl1(
    train: str = "", report: bytes = REPORT, *, memory: str = MEMORY, abi: str = ABI, alloc: str = ALLOC, more: str = ""
) -> bytes:
    """Make a module for fl/1 that does `train` to the model, and gives this report."""
    packed = f"(i64.const {REPORT_AT << 32 | len(report)})"
    body = f'(func (export "fl_train") {TRAIN_TYPE} {train} {packed})'
    return assembled(f"(module {memory} {data(REPORT_AT, report)} {abi} {alloc} {body} {more})")


def wasi(body: str, more: str = "", *, start: str = "_start", memory: str = MEMORY) -> bytes:
    """Make a command that may call some of WASI."""
    imports = "".join(f'(import "wasi_snapshot_preview1" "{name}" (func ${name} {kind}))' for name, kind in WASI_CALLS.items())
    return assembled(f'(module {imports} {memory} {more} (func (export "{start}") {body}))')


def says(stdout: bytes, stderr: bytes = b"", end: str = "") -> bytes:
    """Make a command that writes this, and ends so."""
    at = 4096
    pieces = np.array([at, len(stdout), at + len(stdout), len(stderr)], "<u4").tobytes()
    pages = (at + len(stdout) + len(stderr)) // 65536 + 1
    writes = "".join(
        f"(drop (call $fd_write (i32.const {file}) (i32.const {place}) (i32.const 1) (i32.const 48)))"
        for file, place, text in ((1, 16, stdout), (2, 24, stderr))
        if text
    )
    memory = f'(memory (export "memory") {pages})'
    return wasi(f"{writes} {end}", data(16, pieces) + data(at, stdout + stderr), memory=memory)


def exits(code: int) -> str:
    return f"(call $proc_exit (i32.const {code}))"


def task(**arrays: object) -> Task:
    """Give a task with these arrays, or those of a small network."""
    random = np.random.default_rng(5)
    model = {
        "0.weight": random.normal(size=(3, 4)).astype(np.float32),
        "0.bias": np.zeros(3, np.float32),
        "scale": np.array(2.5, np.float32),
    }
    return Task(
        arrays={name: np.asarray(values) for name, values in arrays.items()} or model,
        x=random.normal(size=(20, 4)).astype(np.float32),
        labels=np.arange(20, dtype=np.int32) % 3,
        hyperparameters=Hyperparameters(2, 0, 8, 0.1, 0.9, 0.0, 0.0, 7),
        run_id="run",
        round=3,
        node_name="site-a",
    )


def anything(*names: str) -> st.SearchStrategy[bytes]:
    """Draw bytes that may be JSON with these names in it."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    values = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner),
        max_leaves=8,
    )
    return st.binary(max_size=40) | values.map(lambda value: json.dumps(value).encode())
