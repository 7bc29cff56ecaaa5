"""docs/wasm.md has every fault by name, and the limits that there are."""

from __future__ import annotations

import re
from pathlib import Path

from flower_app.workloads.wasm import faults
from flower_app.workloads.wasm.task import Limits
from flower_app.workloads.wasm.wasi import BYTES_OF_A_NUMBER
from flower_app.workloads.wasm.workload import DATASETS, Wasm

PAGE = (Path(__file__).parents[3] / "docs" / "wasm.md").read_text("utf-8")


def test_every_fault_is_told_as_it_is_told_in_the_code() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| ([A-Z][^|]+\.) \|$", PAGE, re.MULTILINE))
    assert told == {kind.__name__: kind.__doc__ for kind in faults.TaskFault.__subclasses__()}
    listed = re.findall(r"\b[A-Z]\w+", (faults.__doc__ or "").partition("TaskFault")[2])
    assert listed == list(told)


def test_the_pages_limits_are_those_that_there_are() -> None:
    limits = Limits()
    assert f"| stdout | {BYTES_OF_A_NUMBER} bytes for each number of the model" in PAGE
    assert f" more, {limits.output_bytes >> 20} MB at most" in PAGE
    assert f"| {limits.module_bytes >> 20} MB |" in PAGE
    assert f"| {limits.table_elements:,} |" in PAGE
    assert f"own: {Wasm.defaults['wasm-memory-mb']} |" in PAGE
    assert f"own: {Wasm.defaults['wasm-timeout-s']:g} |" in PAGE
    assert limits.memory_bytes == int(Wasm.defaults["wasm-memory-mb"]) << 20
    assert limits.wall_s == Wasm.defaults["wasm-timeout-s"]


def test_the_page_names_the_examples_that_are_built_in_and_their_layers() -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("| `layers`"))
    assert all(f"`{layers}` of `{name}`" in row for name, (_, layers) in DATASETS.items())
