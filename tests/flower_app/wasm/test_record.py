"""Whatever a module does, the run's record names it, and the run ends with it as its cause."""

from __future__ import annotations

import base64
import hashlib
from functools import partial
from typing import TYPE_CHECKING

import pytest
from flower_app.engine import RoundFailed
from flower_app.workloads.wasm import faults
from flower_app.workloads.wasm.compiler import Bounds
from flower_app.workloads.wasm.faults import CompileLimit, ModuleChanged, ModuleMissing, ModuleNotAllowed, TaskFault, TaskTimeout
from flower_app.workloads.wasm.task import Limits

from tests.flower_app.wasm.attacks import ATTACKS
from tests.flower_app.wasm.bomb import compile_bomb
from tests.flower_app.wasm.guests import BRIEF, SMALL, fl1

if TYPE_CHECKING:
    from pathlib import Path

    from tests.flower_app.conftest import MakeFederation

NOBODYS = f"@sha256:{64 * '0'}"
MODULES = {kind: next(iter(attacks.values()))[1] for kind, attacks in ATTACKS.items()} | {
    CompileLimit: partial(compile_bomb, 2000, 20_000)
}
REFERENCES = {ModuleMissing: f"file:gone.wasm{NOBODYS}", ModuleChanged: f"file:mine.wasm{NOBODYS}"}


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a site's modules less of what no key of a run says, so that attacks are short."""
    less = {"table_elements": SMALL.table_elements, "output_bytes": SMALL.output_bytes, "module_bytes": SMALL.module_bytes}
    monkeypatch.setattr("flower_app.workloads.wasm.workload.Limits", partial(Limits, **less))
    monkeypatch.setattr("flower_app.workloads.wasm.compiler.Bounds", partial(Bounds, cpu_s=1))


@pytest.mark.parametrize("kind", faults.TaskFault.__subclasses__())
def test_the_record_names_what_a_module_did(
    kind: type[TaskFault], make_federation: MakeFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = MODULES.get(kind, fl1)()
    allowed = [hashlib.sha256(module).hexdigest(), 64 * "0"] if kind is not ModuleNotAllowed else []
    monkeypatch.setenv("ESPALIER_WASM_MODULES", ",".join(allowed))
    monkeypatch.setenv("ESPALIER_DATA_DIRS", str(tmp_path))
    (tmp_path / "mine.wasm").write_bytes(module)
    inline = f"data:application/wasm;base64,{base64.b64encode(module).decode()}"
    limits = {"wasm_timeout_s": (BRIEF if kind is TaskTimeout else SMALL).wall_s, "wasm_memory_mb": SMALL.memory_bytes >> 20}
    reference = REFERENCES.get(kind, inline)
    federation = make_federation(workload="wasm", wasm_module=reference, num_rounds=1, round_retries=0, min_available=1, **limits)
    for node in (102, 103):
        del federation.grid.nodes[node]
    with pytest.raises(RoundFailed, match=kind.__name__):
        federation.run()
    (update,) = federation.journal("update")
    assert (update["status"], update["cause"]["type"], update["cause"]["node_name"]) == ("failed", kind.__name__, "site-a")
    assert update["cause"]["message"]
    (closed,) = federation.journal("run.closed")
    assert (closed["status"], closed["cause"]["type"]) == ("failed", kind.__name__)
