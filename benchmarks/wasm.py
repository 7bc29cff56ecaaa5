"""The sandbox: what a fit costs in WebAssembly, beside PyTorch and plain C, and what its two ABIs cost.

python3 run.py bench wasm [--json FILE]     some three minutes on two cores; needs ziglang, which builds what is compared

One fit for all: SGD with momentum 0.9, batches of 32, one thread. The contenders take turns in this process; figures are medians
of CPU time. docs/wasm.md says how each row is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from flower_app.workloads.wasm.execution import found_here
from flower_app.workloads.wasm.sandbox import run_module
from flower_app.workloads.wasm.task import Limits

from benchmarks.measure.table import Row, machine, report
from benchmarks.wasm_cases.contenders import in_plain_c, in_sandbox, in_torch, in_torch_at_a_site
from benchmarks.wasm_cases.fits import digits, epoch_ms, median_ms, pictures
from benchmarks.wasm_cases.guests import built

TIMES_TORCH, TIMES_PLAIN_C, AS_FAST, CALL_MS = 10.0, 1.5, 1.0, 2.0
EPOCHS, TURNS, PICTURES, PICTURE_TURNS, FEW_PICTURES, CALLS = 20, 15, 60_000, 5, 2000, 200


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 run.py bench wasm", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    arguments = parser.parse_args()
    on = machine()
    with tempfile.TemporaryDirectory(prefix="espalier-bench-") as scratch:
        folder = Path(scratch)
        say("building the Propeller guest and plain C")
        guests = {"fl/1": found_here("", Limits(), folder).wasm, "propeller": built("propeller")}
        named, further = epochs(guests["fl/1"], folder, TURNS, PICTURES)
        rows = [*named, call(guests["fl/1"], folder, CALLS), *json_abi(guests, folder, TURNS, FEW_PICTURES), *further]
    return report(rows, "peer", arguments.json, on)


def epochs(guest: bytes, folder: Path, turns: int, count: int) -> tuple[list[Row], list[Row]]:
    """Time an epoch of digits, and of so many pictures; gives the rows that have a bar, and others."""
    contenders = {
        "wasm": in_sandbox(guest, folder),
        "torch": in_torch(),
        "site": in_torch_at_a_site(),
        "C": in_plain_c(folder),
    }
    say("digits: the sandbox, PyTorch, plain C")
    small = epoch_ms(digits(EPOCHS), contenders, turns)
    say(f"{count:,} pictures: the sandbox, PyTorch, plain C")
    large = epoch_ms(pictures(count), contenders, min(turns, PICTURE_TURNS))
    name = f"{count // 1000}k x 784-128-10"
    at_most = 1 / TIMES_PLAIN_C
    return [
        Row("digits epoch, PyTorch 1 thread", "ms", small["wasm"], small["torch"], goal=TIMES_TORCH, bars_ratio=True),
        Row("digits epoch, plain C -O3 -march=native", "ms", small["wasm"], small["C"], goal=at_most, bars_ratio=True),
        Row(f"{name}, PyTorch 1 thread", "ms", large["wasm"], large["torch"], goal=AS_FAST, bars_ratio=True),
        Row(f"{name}, plain C -O3 -march=native", "ms", large["wasm"], large["C"], goal=at_most, bars_ratio=True),
    ], [
        Row("digits epoch, a site with runtime torch", "ms", small["wasm"], small["site"]),
        Row(f"{name}, a site with runtime torch", "ms", large["wasm"], large["site"]),
    ]


def call(guest: bytes, folder: Path, calls: int) -> Row:
    """Time what a call costs beside its training: a fit of one step on one example of digits, all that comes with it included."""
    say(f"{calls} calls")
    fit = digits(1)
    one = replace(fit, examples=fit.examples.at(np.arange(1)))
    task = one.task
    took = median_ms(lambda: run_module(guest, task, Limits(), folder), range(calls))
    return Row("instantiate + train call overhead", "ms", took, goal=CALL_MS)


def json_abi(guests: dict[str, bytes], folder: Path, turns: int, count: int) -> list[Row]:
    """Time the same fits by both ABIs, and weigh what travels into the module and back."""
    contenders = {name: in_sandbox(guest, folder) for name, guest in guests.items()}
    rows = []
    for name, fit in {"digits": digits(1), f"{count:,} x 784-128-10": pictures(count)}.items():
        say(f"{name}: both ABIs")
        took = epoch_ms(fit, contenders, turns)
        rows.append(Row(f"{name} epoch, JSON ABI", "ms", took["fl/1"], took["propeller"]))
    wide = pictures(1).arrays
    binary = sum(values.nbytes for values in wide.values())
    text = len(json.dumps({key: [float(f"{value:.9g}") for value in values.ravel()] for key, values in wide.items()}))
    return [*rows, Row("784-128-10, bytes of the model", "kB", binary / 1000, text / 1000)]


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
