"""The guests as wasm-task/build.py builds them; a folder with a hyphen is no package, so it is loaded by its path."""

from __future__ import annotations

import importlib.util
from pathlib import Path

BUILD = Path(__file__).parents[2] / "wasm-task" / "build.py"


def built(abi: str) -> bytes:
    """Build the guest that speaks an ABI: fl1 or propeller."""
    spec = importlib.util.spec_from_file_location("build_of_the_guest", BUILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wasm: bytes = module.build(abi)
    return wasm
