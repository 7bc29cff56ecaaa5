"""Modules that cannot be compiled, and why, so that what took minutes to find out is not found out again in each round.

Kept in this process, and beside compiled code, under the sha256 of the module and what else the answer depends on.
"""

import json
from pathlib import Path

from flower_app.workloads.wasm import native_code
from flower_app.workloads.wasm.engine import engine
from flower_app.workloads.wasm.faults import CompileLimit, ModuleInvalid

MOST_REFUSALS = 64
"""In this process."""
Refusal = CompileLimit | ModuleInvalid
_KINDS: dict[str, type[Refusal]] = {kind.__name__: kind for kind in (CompileLimit, ModuleInvalid)}


def recall(cache_dir: Path | None, sha256: str, rules: str) -> Refusal | None:
    """Give what a module was refused for. rules: a name of the bounds, and of what else decides besides wasmtime."""
    name = _name(sha256, rules)
    told = engine().refused.get(name) or native_code.read(cache_dir, name)
    if told is None:
        return None
    _hold(name, told)
    kind, sentence = json.loads(told)
    return _KINDS[kind](sentence)


def keep(cache_dir: Path | None, sha256: str, rules: str, refusal: Refusal) -> None:
    """Keep it for this process and the next ones."""
    name, told = _name(sha256, rules), json.dumps([type(refusal).__name__, str(refusal)]).encode()
    _hold(name, told)
    native_code.keep(cache_dir, name, told)


def _hold(name: str, told: bytes) -> None:
    refused = engine().refused
    refused[name] = told
    for oldest in list(refused)[:-MOST_REFUSALS]:
        refused.pop(oldest, None)


def _name(sha256: str, rules: str) -> str:
    return f"{sha256}-refused-{rules}"
