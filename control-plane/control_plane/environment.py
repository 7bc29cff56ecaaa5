"""The environment of a child: an allow-list, so that no key of ours is ever in it."""

import fnmatch
import os
from collections.abc import Mapping

PASSED_ON = (
    *("PATH", "HOME", "LANG", "LC_*", "TZ", "TMPDIR"),
    *("PYTHON*", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SSL_CERT_*"),
    *("CUDA_*", "NVIDIA_*", "OMP_*", "MKL_*", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "FLWR_HOME"),
)
"""Names, with * as in a shell, that a child inherits from us."""

ALWAYS_SET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "PYTHONUNBUFFERED": "1",
}
"""No child calls home or installs anything; and what it printed before a SIGKILL is in its log."""

NEVER = ("DATABASE_URL", "SUPABASE_*", "*TOKEN*", "*KEY*", "*SECRET*", "*PASSWORD*", "*INVITATION*", "AWS_*")


def child_environment(extra: Mapping[str, str] | None = None, *, source: Mapping[str, str] | None = None) -> dict[str, str]:
    """Build a child's whole environment: PASSED_ON from ours, ALWAYS_SET, then extra.

    source: instead of os.environ. Raises ValueError when a name in extra says that it holds a secret: hand it over in a file.
    """
    ours = os.environ if source is None else source
    inherited = {name: value for name, value in ours.items() if _is_passed_on(name)}
    extra = extra or {}
    for name in extra:
        if name not in PASSED_ON and _may_hold_a_secret(name):
            raise ValueError(f"{name} may not be in the environment of a child: hand a secret over in a file")
    return inherited | ALWAYS_SET | dict(extra)


def _is_passed_on(name: str) -> bool:
    """A name that is listed as it stands is; one that only fits a pattern is not when it may hold a secret."""
    fits = any(fnmatch.fnmatchcase(name, pattern) for pattern in PASSED_ON)
    return name in PASSED_ON or (fits and not _may_hold_a_secret(name))


def _may_hold_a_secret(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name.upper(), pattern) for pattern in NEVER)
