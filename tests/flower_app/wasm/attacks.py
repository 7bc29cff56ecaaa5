"""Modules that attack their site, by the fault that stops them: what is said of it, and how the module is made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from flower_app.workloads.wasm.abi import WASI
from flower_app.workloads.wasm.faults import (
    BadUpdate,
    HostCallAbused,
    ModuleInvalid,
    ModuleTooLarge,
    OutputFlood,
    TaskFailed,
    TaskFault,
    TaskMemory,
    TaskStackOverflow,
    TaskTable,
    TaskTimeout,
    TaskTrap,
)

from tests.flower_app.wasm.guests import ABI, ALLOC, MEMORY, REPORT, TENSORS, assembled, data, exits, fl1, says, wasi

LOOP = "(loop $again (br $again))"
LEAF = "(func $leaf) (type $other (func (param i32)))"
PIECES = "(i32.const 0) (i32.const 1) (i32.const 64)"
ROOMY = '(memory (export "memory") 200)'
ONE_HOUR = data(0, (7).to_bytes(16, "little") + (1).to_bytes(8, "little") + (3600 * 10**9).to_bytes(24, "little"))


def of_text(text: str) -> Callable[[], bytes]:
    return lambda: assembled(f"(module {text})")


def of_fl1(train: str = "", **parts: str) -> Callable[[], bytes]:
    return lambda: fl1(train, REPORT, **parts)


def of_wasi(body: str, more: str = "", **parts: str) -> Callable[[], bytes]:
    return lambda: wasi(body, more, **parts)


def without(part: str) -> Callable[[], bytes]:
    parts = [MEMORY, ABI, ALLOC, '(func (export "fl_train") (param i32 i32 i32 i32 i32 i32) (result i64) i64.const 0)']
    return of_text(" ".join(each for each in parts if part not in each))


LURID = "\x1b[2Jgone\r\nINFO\tall is well\u202e\x9b0m\0"
LURID_NAME = "".join(f"\\{byte:02x}" for byte in LURID.encode())
TOLD_END = re.escape("INFO all is well\\u202e\\x9b0m\N{REPLACEMENT CHARACTER}")
TOLD = rf"\\x1b\[2Jgone \| {TOLD_END}"
"""The same on one line, with nothing that a terminal acts upon. Of wasmtime's own lines, the first and the last are told."""
WALL = r"the module ran longer than the 0\.3 s that it is given \(wasm-timeout-s\)"
ROOM = r"the 16 MB that it is given \(wasm-memory-mb\)"
ATTACKS: dict[type[TaskFault], dict[str, tuple[str, Callable[[], bytes]]]] = {
    ModuleTooLarge: {
        "too large": (
            "the module has 1048577 bytes, more than 1048576 bytes, which is what a site takes at most",
            lambda: b"\0asm" + bytes((1 << 20) - 3),
        ),
    },
    ModuleInvalid: {
        "text": (r"the module is no WebAssembly: it begins with b'\(mod' instead of b'\\x00asm'", lambda: b"(module)"),
        "cut short": ("the module is not usable: failed to parse WebAssembly module: unexpected end-of-file", lambda: fl1()[:-9]),
        "component": ("encoded as a component", lambda: b"\0asm\x0d\0\1\0"),
        "memory64": ("memory64 must be enabled", of_text("(memory i64 1)")),
        "shared memory": ("threads must be enabled", of_text("(memory 1 2 shared)")),
        "atomics": ("threads support is not enabled", of_fl1("(drop (i32.atomic.load (i32.const 0)))")),
        "two memories": ("multiple memories", of_text("(memory 1) (memory 1)")),
        "page sizes": ("custom page sizes", of_text("(memory 1 (pagesize 1))")),
        "garbage collection": ("without the gc feature", of_text("(type (struct (field i32)))")),
        "function references": ("function references required", of_text("(type $t (func)) (func (param (ref $t)))")),
        "exceptions": ("exceptions proposal not enabled", of_text("(tag)")),
        "tail calls": ("tail calls support is not enabled", of_text("(func $f (return_call $f))")),
        "no memory": ("the module exports no memory of the name memory", of_text(f"(memory 2) {ABI} {ALLOC}")),
        "no version": ("the module does not export fl_abi", without("fl_abi")),
        "no room": ("the module does not export fl_alloc", without("fl_alloc")),
        "no training": ("the module does not export fl_train", without("fl_train")),
        "nothing": ("imports nothing, as fl/1 has it, and exports none of fl_abi, fl_alloc, fl_train", of_text(MEMORY)),
        "other version": (
            "the module speaks version 2 of fl/1, and this is version 1",
            of_fl1(abi=ABI.replace("const 1", "const 2")),
        ),
        "signature": (
            r"fl_abi of the module needs to be \(\) -> \(i32\), and is \(f64\) -> \(\)",
            of_fl1(abi='(func (export "fl_abi") (param f64))'),
        ),
        "no function": ("fl_abi of the module is no function", of_fl1(abi='(global (export "fl_abi") i32 (i32.const 1))')),
        "vectors": (
            "the module ends the compiler with SIGABRT: `support for v128 ` is not implemented",
            of_fl1(abi='(func (export "fl_abi") (param v128))'),
        ),
        "many names": (
            "the module has 0 imports and 1004 exports; a site takes 1000 in all",
            of_fl1(more="".join(f'(export "{number}" (func $leaf))' for number in range(1000)) + LEAF),
        ),
        "foreign imports": (
            r"the module imports env\.a, env\.b, env\.c, env\.d and 1 more; fl/1 takes no imports",
            of_text("".join(f'(import "env" "{name}" (func))' for name in "abcde")),
        ),
        "imports that write to a terminal": (
            rf"the module imports env\.{TOLD}; fl/1 takes no imports",
            of_text(f'(import "env" "{LURID_NAME}" (func))'),
        ),
        "exports that write to a terminal": (
            f"the module is not usable: failed to parse WebAssembly module: {TOLD_END}` already defined",
            of_text(f'(func (export "{LURID_NAME}")) (func (export "{LURID_NAME}"))'),
        ),
        "unknown call that writes to a terminal": (
            rf"the module cannot be started: unknown import: `{WASI}::\\x1b\[2Jgone: {TOLD_END}` has not been",
            of_text(f'(import "{WASI}" "{LURID_NAME}" (func)) {MEMORY} (func (export "_start"))'),
        ),
        "WASI in fl/1": (
            r"exports what fl/1 has, which takes no imports, and imports wasi_snapshot_preview1\.clock_time_get, ",
            of_wasi("", more=ABI),
        ),
        "no start": ("the module does not export run or _start", of_wasi("", start="main")),
        "start with parameters": (
            r"_start of the module needs to be \(\) -> \(\), and is \(i32\) -> \(\)",
            of_wasi("(param i32)"),
        ),
        "unknown call": (
            "the module cannot be started: unknown import: `wasi_snapshot_preview1::fd_leak`",
            of_text(f'(import "wasi_snapshot_preview1" "fd_leak" (func)) {MEMORY} (func (export "_start"))'),
        ),
        "call of another type": (
            "the module cannot be started: incompatible import type",
            of_text(f'(import "wasi_snapshot_preview1" "fd_write" (func)) {MEMORY} (func (export "_start"))'),
        ),
    },
    TaskTimeout: {
        "endless": (WALL, of_fl1(LOOP)),
        "endless in fl_alloc": (WALL, of_fl1(alloc=f'(func (export "fl_alloc") (param i32) (result i32) {LOOP} unreachable)')),
        "endless start function": (WALL, of_fl1(more=f"(func $start {LOOP}) (start $start)")),
        "endless command": (WALL, of_wasi(LOOP)),
        "sleep": (
            WALL,
            of_wasi("(drop (call $poll_oneoff (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 256)))", ONE_HOUR),
        ),
        "random numbers in a straight line": (
            WALL,
            of_wasi("(drop (call $random_get (i32.const 0) (i32.const 1048576)))" * 5000, memory=ROOMY),
        ),
        "stderr in a straight line": (
            WALL,
            of_wasi(
                "(drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1024) (i32.const 20000)))" * 20_000,
                data(0, (bytes(4) + (65536).to_bytes(4, "little")) * 1024),
            ),
        ),
        "copies in a straight line": (
            WALL,
            of_fl1("(memory.copy (i32.const 0) (i32.const 8) (i32.const 13000000))" * 3000, memory=ROOMY),
        ),
        "copies in a straight line to an end of its own": (
            WALL,
            of_wasi("(memory.copy (i32.const 0) (i32.const 8) (i32.const 13000000))" * 3000 + exits(3), memory=ROOMY),
        ),
    },
    TaskMemory: {
        "much memory at once": (
            f"the module does not fit {ROOM}: memory minimum size of 5000 pages exceeds memory limits",
            of_fl1(memory='(memory (export "memory") 5000)'),
        ),
        "no room given": (
            f"the module has no room for 107 bytes of hyperparameters within {ROOM}",
            of_fl1(alloc='(func (export "fl_alloc") (param i32) (result i32) i32.const 0)'),
        ),
    },
    TaskTable: {
        "large table": (
            "needs more than the 1000 elements in each of 4 tables that it is given: table minimum size of 5000",
            of_fl1(more="(table 5000 funcref)"),
        ),
        "many tables": ("resource limit exceeded: table count too high at 5", of_fl1(more="(table 1 funcref)" * 5)),
    },
    TaskStackOverflow: {
        "recursion": (
            "the module recursed through the 1 MB of stack that it is given",
            of_fl1("(call $deep)", more="(func $deep (call $deep))"),
        ),
    },
    TaskTrap: {
        "unreachable": (
            r"the module trapped in inner: wasm trap: wasm `unreachable` instruction executed",
            of_fl1("(call $inner)", more="(func $inner unreachable)"),
        ),
        "name that writes to a terminal": (
            f"the module trapped in {TOLD}: wasm trap: ",
            of_fl1("(call $inner)", more=f'(func $inner (@name "{LURID_NAME}") unreachable)'),
        ),
        "division by zero": ("integer divide by zero", of_fl1("(drop (i32.div_s (i32.const 1) (i32.const 0)))")),
        "conversion": ("invalid conversion to integer", of_fl1("(drop (i32.trunc_f32_s (f32.const nan)))")),
        "outside memory": ("out of bounds memory access", of_fl1("(i32.store (i32.const -4) (i32.const 1))")),
        "data outside memory": ("out of bounds memory access", of_fl1(more='(data (i32.const -4) "12345678")')),
        "elements outside a table": (
            "out of bounds table access",
            of_fl1(more=f"{LEAF} (table 1 funcref) (elem (i32.const 5) $leaf)"),
        ),
        "null call": ("uninitialized element", of_fl1("(call_indirect (i32.const 0))", more="(table 1 funcref)")),
        "call of another signature": (
            "indirect call type mismatch",
            of_fl1("(call_indirect (type $other) (i32.const 0) (i32.const 0))", more=f"{LEAF} (table funcref (elem $leaf))"),
        ),
        "table that grows": (
            "unreachable",
            of_fl1(
                "(if (i32.eq (table.grow (ref.null func) (i32.const 100000)) (i32.const -1)) (then unreachable))",
                more="(table 1 funcref)",
            ),
        ),
        "trap after a last word": (
            "unreachable.*; on stderr: panicked at main.rs",
            lambda: says(b"", b"panicked at main.rs\n", "unreachable"),
        ),
    },
    HostCallAbused: {
        "wild pieces": (
            "the module called fd_write with what leads nowhere: 8 bytes at 4294967288 do not lie in its memory of 131072",
            of_wasi("(drop (call $fd_write (i32.const 1) (i32.const -8) (i32.const 1) (i32.const 64)))"),
        ),
        "wild text": (
            "fd_write with what leads nowhere: 16 bytes at 4294967280 do not lie",
            of_wasi(f"(drop (call $fd_write (i32.const 1) {PIECES}))", data(0, b"\xf0\xff\xff\xff\x10\0\0\0")),
        ),
        "wild count written": (
            "fd_write with what leads nowhere: 4 bytes at 4294967295",
            of_wasi("(drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const -1)))"),
        ),
        "many pieces": (
            "the module called fd_write with 1025 pieces, and a site takes 1024 at once",
            of_wasi("(drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1025) (i32.const 64)))"),
        ),
        "many clocks": (
            "the module called poll_oneoff with 4294967295 pieces",
            of_wasi("(drop (call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 64)))"),
        ),
        "wild events": (
            "poll_oneoff with what leads nowhere: 32 bytes at 4294967264",
            of_wasi("(drop (call $poll_oneoff (i32.const 0) (i32.const -32) (i32.const 1) (i32.const 64)))"),
        ),
        "wild environment": (
            r"environ_get with what leads nowhere: \d+ bytes at 4294967288 do not lie",
            of_wasi("(drop (call $environ_get (i32.const -8) (i32.const -8)))"),
        ),
        "wild places of the environment": (
            "environ_get with what leads nowhere: 24 bytes at 4294967288 do not lie",
            of_wasi("(drop (call $environ_get (i32.const -8) (i32.const 8)))"),
        ),
        "wild size of the environment": (
            "environ_sizes_get with what leads nowhere: 4 bytes at 4294967295",
            of_wasi("(drop (call $environ_sizes_get (i32.const 0) (i32.const -1)))"),
        ),
        "wild time": (
            "the module called the host with what leads nowhere: Pointer out of bounds",
            of_wasi("(drop (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const -8)))"),
        ),
        "random numbers without end": (
            "the module called random_get for 1048577 bytes, and a site gives 1048576 at once",
            of_wasi("(drop (call $random_get (i32.const 0) (i32.const 1048577)))", memory=ROOMY),
        ),
    },
    OutputFlood: {
        "flood": (
            "the module wrote more than 66560 bytes on stdout: a site reads at most 64 bytes for each number of the model",
            of_wasi(
                f"(loop $again (drop (call $fd_write (i32.const 1) {PIECES})) (br $again))", data(0, b"\0\0\0\0\xff\xff\0\0")
            ),
        ),
        "flood at once": (
            "the module wrote more than 66560 bytes on stdout",
            of_wasi(f"(drop (call $fd_write (i32.const 1) {PIECES}))", data(0, b"\0\0\0\0\xff\xff\xff\xff")),
        ),
        "update of another size": (
            "the module wrote more than 66560 bytes on stdout: a site reads at most 64 bytes for each number of the model",
            lambda: says(b'{"update":{"0.weight":[' + b"0," * 33_300 + b"0]}}"),
        ),
        "long report": ("the report of the module has 70000 bytes", of_fl1("(return (i64.const 70000))")),
    },
    TaskFailed: {
        "failure": ("the module says: no lr$", lambda: fl1(report=b'{"error":"no lr"}')),
        "failure that writes to a terminal": (
            f"the module says: {TOLD}$",
            lambda: fl1(report=json.dumps({"error": LURID}).encode()),
        ),
        "stderr that writes to a terminal": (
            rf"the module ended with exit code 3; on stderr: {TOLD}$",
            lambda: says(b"", LURID.encode(), exits(3)),
        ),
        "exit code": ("the module ended with exit code 3; on stderr: no lr$", lambda: says(b"", b"no lr\n", exits(3))),
        "exit code that is none": (
            r"the module ended itself with an exit code outside 0\.\.125; on stderr: no lr$",
            lambda: says(b"{}", b"no lr", exits(300)),
        ),
        "exit at its start": (
            "the module ended with exit code 4$",
            of_wasi("", "(func $start (call $proc_exit (i32.const 4))) (start $start)"),
        ),
    },
    BadUpdate: {
        "no numbers": (r"not finite: 12 of 12 in 0\.weight", of_fl1(f"(memory.fill {TENSORS} (i32.const 255) (i32.const 48))")),
        "many objects": (
            "the update of the module has 40003 brackets and commas, and one of this model has 1046 at most",
            lambda: says(b'{"update":[' + b"[]," * 20_000 + b"[]]}"),
        ),
        "silence": ("the update of the module is no JSON: .*; it begins with b''", of_wasi("")),
    },
}
