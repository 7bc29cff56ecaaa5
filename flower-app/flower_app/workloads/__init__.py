"""Workloads: what is trained. Chosen by the run-config key `workload`.

A name of the table below, an entry point of the group `espalier.workloads` of an installed package, or
`package.module:Class` of the FAB itself (a FAB is unpacked, not installed, so its entry points are not seen).
"""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points

from flower_app.config import ConfigError, RunConfig
from flower_app.workloads.interface import Workload

GROUP = "espalier.workloads"
EXTRAS = {"torch": "train", "transformers": "lora", "peft": "lora", "huggingface_hub": "lora"}
BUILT_IN = {
    "causal-lora": "flower_app.workloads.causal_lora:CausalLora",
    "digits": "flower_app.workloads.digits:Digits",
    "fashion": "flower_app.workloads.fashion:Fashion",
    "lora-text": "flower_app.workloads.lora_text:LoraText",
    "tabular": "flower_app.workloads.tabular:Tabular",
    "wasm": "flower_app.workloads.wasm.workload:Wasm",
}

_LORA = ("causal-lora", "lora-text")
_WASM = ("layers", "wasm-module", "wasm-memory-mb", "wasm-timeout-s")
READERS = {
    "dataset": ("causal-lora", "wasm"),
    **dict.fromkeys(("base-model", "num-layers", "max-length", "lora-targets"), _LORA),
    **dict.fromkeys(_WASM, ("wasm",)),
}
"""Keys that only some of them read, and which; another one refuses what a run says there."""


def make_workload(config: RunConfig) -> Workload:
    """Build the workload that the run config names.

    Raises ConfigError (key `workload`): unknown name, with the choices; a reference that leads nowhere.
    An error inside the workload's own module comes through as it is.
    """
    return _find(config.workload)(settled(config))


def settled(config: RunConfig) -> RunConfig:
    """Fill in what a run leaves to its workload, which may have `defaults`: run-config keys and their values.

    Raises ConfigError as make_workload() does, and for a key that a built-in workload does not read.
    """
    for key, readers in READERS.items():
        if config.values[key] and config.workload in BUILT_IN and config.workload not in readers:
            raise ConfigError(f"{key} is a key of {' and '.join(readers)}; workload {config.workload} does not read it")
    return config.left_to(getattr(_find(config.workload), "defaults", {}))


def _find(name: str) -> Callable[[RunConfig], Workload]:
    if name in BUILT_IN:
        return _load(BUILT_IN[name])
    if ":" in name:
        return _load(name)
    installed = {each.name: each for each in entry_points(group=GROUP)}
    if name in installed:
        found: Callable[[RunConfig], Workload] = installed[name].load()
        return found
    choices = ", ".join(sorted({*BUILT_IN, *installed}))
    raise ConfigError(f'workload "{name}" is unknown; choose one of {choices}, or give package.module:Class')


def _load(reference: str) -> Callable[[RunConfig], Workload]:
    module_name, _, class_name = reference.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if reference in BUILT_IN.values() and error.name in EXTRAS:
            extra = EXTRAS[error.name]
            raise ConfigError(f"workload {module_name} needs {error.name}: pip install 'espalier[{extra}]'") from error
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise  # the workload's own import failed: its message is the better one
        raise ConfigError(f'workload "{reference}": there is no module {error.name}') from error
    found: Callable[[RunConfig], Workload] | None = getattr(module, class_name, None)
    if found is None:
        raise ConfigError(f'workload "{reference}": module {module_name} has no class {class_name or "(none named)"}')
    return found
