"""The pretrained model that a run starts from: a folder of the machine's data, or a repository of the Hugging Face hub.

Weights are read from safetensors alone, and no code of a repository is run.
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from flower_app.config import ConfigError
from flower_app.workloads.data_dirs import DataMissing, data_dirs, see_that_it_stays_below
from flower_app.workloads.patience import Busy, TriedInVain, asked_s, is_busy, patiently

CACHES = (("HF_HOME", ""), ("ESPALIER_CACHE_DIR", "huggingface"), ("ESPALIER_RUN_DIR", "huggingface"))
SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
TRIES, LONGEST_WAIT_S = 6, 60.0
T = TypeVar("T")


class HubUnreachable(RuntimeError):
    """A base model could not be fetched from the hub."""


def find_base_model(name: str, how: str, *, weights: bool, environment: Mapping[str, str] = os.environ) -> Path:
    """Give the folder of a base model: one below a data folder, else `organisation/name[@revision]` of the hub, fetched once.

    how: how to get it, for one that is in no data folder and cannot be a repository. weights: False: its config and tokenizer
    alone. Raises ConfigError, DataMissing, HubUnreachable.
    """
    if not name:
        raise ConfigError("base-model is empty: name a folder below DATA_DIRS, or organisation/name of the hub")
    see_that_it_stays_below(name)
    for folder in data_dirs(environment):
        if (found := folder / name).is_dir():
            return found
    if name.count("/") != 1:
        looked = ", ".join(map(str, data_dirs(environment))) or "any folder: ESPALIER_DATA_DIRS is not set"
        raise DataMissing(f"there is no base model {name} in {looked}; {how}")
    return _from_hub(name, weights, environment)


def _from_hub(name: str, weights: bool, environment: Mapping[str, str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    wanted: Any = {
        "repo_id": repository,
        "revision": revision or None,
        "cache_dir": _cache(environment) / "hub",
        "token": False,  # a run names the repository: what a site may read besides is not the coordinator's to use
        "allow_patterns": [*SMALL_FILES, *(["*.safetensors"] if weights else [])],
    }
    if environment.get("HF_HUB_OFFLINE"):
        try:
            return Path(snapshot_download(**wanted, local_files_only=True))
        except LocalEntryNotFoundError as error:
            raise HubUnreachable(f"base-model {name} is not in {wanted['cache_dir']}, and HF_HUB_OFFLINE is set") from error
    print(f"base-model {name}: looking at the hub for what is not in {wanted['cache_dir']} yet", flush=True)
    return fetched(lambda: Path(snapshot_download(**wanted)), name)


def fetched(fetch: Callable[[], T], name: str, sleep: Callable[[float], None] = time.sleep) -> T:
    """Fetch; again while the hub is busy (429, 5xx) or out of reach.

    What it has sent is kept in its cache, so that another try goes on. Raises HubUnreachable, naming the model and the cause.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    def ask() -> T:
        try:
            return fetch()
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            answer = _answer(error)
            if answer is not None and not is_busy(answer.status_code):
                raise _unreachable(name, f": {_told(error)}") from error
            raise Busy(_told(error), None if answer is None else asked_s(answer.headers)) from error

    try:
        return patiently(ask, f"base-model {name}", tries=TRIES, longest_wait_s=LONGEST_WAIT_S, sleep=sleep)
    except TriedInVain as vain:
        raise _unreachable(name, f" {vain}") from vain


def _unreachable(name: str, why: str) -> HubUnreachable:
    return HubUnreachable(
        f"base-model {name} cannot be fetched from the hub{why}. Where there is no way to the hub, "
        "put its folder below DATA_DIRS and name that"
    )


def _answer(error: BaseException) -> Any:
    """Give the hub's answer that an error comes from, if there was one; the client hides a busy hub behind another error."""
    answer = getattr(error, "response", None)
    return _answer(error.__cause__) if answer is None and error.__cause__ else answer


def _told(error: Exception) -> str:
    answer = _answer(error)
    if answer is not None:
        return f"HTTP {answer.status_code} {answer.reason_phrase}"
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"


def _cache(environment: Mapping[str, str]) -> Path:
    for variable, below in CACHES:
        if environment.get(variable):
            return Path(environment[variable]) / below
    raise ConfigError("base-model names a repository of the hub, and there is no folder to keep it in: set HF_HOME")
