"""Which ABI a module speaks, by what it imports and exports; and what both have in common."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from flower_app.text import one_line
from flower_app.workloads.wasm.engine import wasmtime
from flower_app.workloads.wasm.faults import ModuleInvalid
from flower_app.workloads.wasm.task import Hyperparameters

FL1, PROPELLER = "fl/1", "propeller"
WASI = "wasi_snapshot_preview1"
MOST_NAMES = 1000
"""A module of 32 MB could have a million, each an object here."""
_FL1 = {
    "fl_abi": ([], ["i32"]),
    "fl_alloc": (["i32"], ["i32"]),
    "fl_train": (["i32"] * 6, ["i64"]),
}
_OWN = "fl_"


def abi_of(module: wasmtime.Module) -> str:
    """Tell. Raises ModuleInvalid with what is wrong.

    wasmtime ends the process that asks it for a signature with vectors, so the compiler's child is the first to ask.
    """
    imports, exports = module.imports, module.exports
    if len(imports) + len(exports) > MOST_NAMES:
        raise ModuleInvalid(f"the module has {len(imports)} imports and {len(exports)} exports; a site takes {MOST_NAMES} in all")
    kinds = {each.name: each.type for each in exports}
    foreign = sorted({f"{each.module}.{each.name}" for each in imports if each.module != WASI})
    if foreign:
        raise ModuleInvalid(f"the module imports {_listed(foreign)}; fl/1 takes no imports, and Propeller those of {WASI}")
    if not isinstance(kinds.get("memory"), wasmtime.MemoryType):
        raise ModuleInvalid("the module exports no memory of the name memory")
    if any(name.startswith(_OWN) for name in kinds):
        if imports:
            asked = sorted(f"{each.module}.{each.name}" for each in imports)
            raise ModuleInvalid(f"the module exports what fl/1 has, which takes no imports, and imports {_listed(asked)}")
        for name, signature in _FL1.items():
            _see_signature(kinds, name, *signature)
        return FL1
    if not imports:
        raise ModuleInvalid(f"the module imports nothing, as fl/1 has it, and exports none of {', '.join(_FL1)}")
    for name in ("_start",) if "_start" in kinds else ("_initialize", "run"):
        if name == "run" or name in kinds:
            _see_signature(kinds, name, [], None if name == "run" else [])
    return PROPELLER


def config_of(hyperparameters: Hyperparameters) -> bytes:
    """Write hyperparameters as both ABIs hand them on: the same ones give the same bytes."""
    return json.dumps(asdict(hyperparameters), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _see_signature(kinds: Mapping[str, object], name: str, params: Sequence[str], results: Sequence[str] | None) -> None:
    """results: None where they do not matter."""
    kind = kinds.get(name)
    if kind is None:
        raise ModuleInvalid(f"the module does not export {name}" + " or _start" * (name == "run"))
    if not isinstance(kind, wasmtime.FuncType):
        raise ModuleInvalid(f"{name} of the module is no function")
    has = [list(map(str, types)) for types in (kind.params, kind.results)]
    if has[0] != params or results not in (None, has[1]):
        needs = _signature(params, has[1] if results is None else results)
        raise ModuleInvalid(f"{name} of the module needs to be {needs}, and is {_signature(*has)}")


def _signature(params: Sequence[str], results: Sequence[str]) -> str:
    return one_line(f"({', '.join(params)}) -> ({', '.join(results)})", 200)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(one_line(name, 80) for name in names[:4])
    return shown + f" and {len(names) - 4} more" * (len(names) > 4)
