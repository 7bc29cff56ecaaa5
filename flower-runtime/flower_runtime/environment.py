"""The environment of a child: an allow-list, so that no token, key or password of ours reaches a Flower app."""

from collections.abc import Mapping

_NAMES = {
    "PATH", "HOME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "FLWR_HOME", "FLWR_LOG_LEVEL",
    "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "ESPALIER_DATA_DIRS",
    "ESPALIER_WASM_MODULES",
}  # fmt: skip
_PREFIXES = ("LC_", "PYTHON", "SSL_CERT_", "CUDA_", "NVIDIA_", "OMP_", "MKL_")
_FORBIDDEN = ("TOKEN", "KEY", "SECRET", "PASSWORD")

# Flower asks the network for telemetry, updates and packages unless told not to, and the Hugging Face client tells it who asks.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "PYTHONUNBUFFERED": "1",  # a killed child keeps nothing back
}


def child_environment(ours: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Build a child's environment from ours, what Flower needs to be quiet, and extra, which wins."""
    passed = {name: value for name, value in ours.items() if _may_pass(name)}
    return {**passed, **QUIET, **extra}


def _may_pass(name: str) -> bool:
    if name in _NAMES:
        return True
    return name.startswith(_PREFIXES) and not any(word in name for word in _FORBIDDEN)
