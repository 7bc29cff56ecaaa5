"""The sandbox's bench compares like with like, on a few examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from flower_app.workloads.wasm.execution import found_here
from flower_app.workloads.wasm.task import Limits

from benchmarks import wasm
from benchmarks.wasm_cases.contenders import in_plain_c, in_sandbox, in_torch, in_torch_at_a_site
from benchmarks.wasm_cases.fits import digits
from benchmarks.wasm_cases.guests import built


@pytest.fixture
def guest() -> Iterator[bytes]:
    threads = torch.get_num_threads()
    yield found_here("", Limits(), None).wasm
    torch.set_num_threads(threads)


def test_all_contenders_do_the_same_work(guest: bytes, tmp_path: Path) -> None:
    fit = digits(5)
    losses = [contend(fit) for contend in (in_sandbox(guest, tmp_path), in_torch(), in_torch_at_a_site(), in_plain_c(tmp_path))]
    assert min(losses) > 0.1
    assert max(losses) / min(losses) < 1.05, losses


def test_every_row_has_its_figures(guest: bytes, tmp_path: Path) -> None:
    named, further = wasm.epochs(guest, tmp_path, 1, 200)
    rows = [*named, *further, *wasm.json_abi({"fl/1": guest, "propeller": built("propeller")}, tmp_path, 1, 100)]
    assert all((row.ours or 0) > 0 and (row.peer or 0) > 0 for row in rows)
    assert [row.goal for row in rows] == [10.0, pytest.approx(2 / 3), 1.0, pytest.approx(2 / 3)] + 5 * [None]
    overhead = wasm.call(guest, tmp_path, 3)
    assert (overhead.ours or 0) > 0
    assert overhead.goal == 2.0
