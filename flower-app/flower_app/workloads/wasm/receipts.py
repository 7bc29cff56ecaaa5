"""What a site keeps of its last updates, so that they can be run again: what was asked for, the model that arrived, and digests.

`wasm/receipts/<run id>/round-<n>-part-<partition id>.{json,safetensors}` below the cache folder, and the modules by their sha256
(kept.py). Of the site's examples there is the digest alone.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flower_app.config import ConfigError, ConfigValue, RunConfig
from flower_app.files import part_of
from flower_app.tensor_file import read_tensors, safetensors, write_tensors
from flower_app.wire import digest
from flower_app.workloads.interface import Arrays, NodeEnv
from flower_app.workloads.wasm import kept
from flower_app.workloads.wasm.receipt_form import typed
from flower_app.workloads.wasm.task import Hyperparameters, Limits, Outcome, Task

FOLDER = Path("wasm", "receipts")
VERSION = 1
MOST, MOST_BYTES = 32, 512 << 20
TRIES = 10
_SHA256 = re.compile("[0-9a-f]{64}")
_PATH_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class ReceiptUnreadable(RuntimeError):
    """What is kept of an update is no whole receipt."""


@dataclass(frozen=True)
class Digests:
    """sha256 of what went into an update and of what came out; of models and of the examples as wire.digest()."""

    module_sha256: str
    model_in_sha256: str
    data_sha256: str
    config_sha256: str
    model_out_sha256: str


@dataclass(frozen=True)
class Receipt:
    """One update of this site; run_config are all values of the run, kept_at is in UTC."""

    run_id: str
    round: int
    node_name: str
    partition_id: int
    num_partitions: int
    run_config: Mapping[str, ConfigValue]
    hyperparameters: Hyperparameters
    limits: Limits
    abi: str
    digests: Digests
    wasmtime: str = field(default_factory=lambda: version("wasmtime"))
    kept_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    version: int = VERSION


def digests_of(module_sha256: str, task: Task, outcome: Outcome) -> Digests:
    """Hash what a module was given and what came of it."""
    return Digests(
        module_sha256=module_sha256,
        model_in_sha256=digest(task.arrays),
        data_sha256=digest_of_data(task),
        config_sha256=hashlib.sha256(outcome.config).hexdigest(),
        model_out_sha256=digest(outcome.arrays),
    )


def digest_of_data(task: Task) -> str:
    """Hash the examples that a module was given."""
    return digest({"x": task.x, "y": task.labels})


def receipt_of(task: Task, limits: Limits, abi: str, digests: Digests, config: RunConfig, env: NodeEnv) -> Receipt:
    """Write down an update that is done."""
    return Receipt(
        run_id=task.run_id,
        round=task.round,
        node_name=task.node_name,
        partition_id=env.partition_id,
        num_partitions=env.num_partitions,
        run_config=dict(config.values),
        hyperparameters=task.hyperparameters,
        limits=limits,
        abi=abi,
        digests=digests,
    )


def keep(cache_dir: Path, receipt: Receipt, model_in: Arrays, wasm: bytes) -> None:
    """Keep what the update can be run again with, the receipt last, and let go of the oldest ones.

    Raises OSError; ConfigError for a run whose id can name no folder.
    """
    if not _PATH_SAFE.fullmatch(receipt.run_id):
        raise ConfigError(f"run id {receipt.run_id[:100]!r} can name no folder: letters, digits, dot, dash and underscore only")
    folder = cache_dir / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / receipt.run_id / f"round-{receipt.round}-part-{receipt.partition_id}.json"
    try:
        kept.keep(cache_dir, wasm)
        _write(path, receipt, model_in)
    finally:
        _let_go_of_the_oldest(folder)  # most of all where the disk is full


def find_receipts(cache_dir: Path, run_id: str | None = None, round: int | None = None) -> list[Path]:
    """Find receipts, of a run or a round of it if that is said, the newest first."""
    found = _find(cache_dir / FOLDER, f"round-{'*' if round is None else round}-part-*.json")
    mine = [(told.st_mtime_ns, path) for path in found if run_id in (None, path.parent.name) and (told := kept.stat_of(path))]
    return [path for _, path in sorted(mine, key=lambda each: each[0], reverse=True)]


def read_receipt(path: Path) -> tuple[Receipt, Arrays]:
    """Read a receipt and the model that arrived. Raises ReceiptUnreadable; ConfigError where safetensors is not installed."""
    unreadable = safetensors().SafetensorError
    try:
        told: dict[str, Any] = json.loads(path.read_bytes())
        if told["version"] != VERSION:
            raise ReceiptUnreadable(f"{path} is of version {told['version']!r:.20}, and this is the app of version {VERSION}")
        receipt: Receipt = typed("receipt", told, Receipt)
        _see_that_it_can_be(receipt)
        return receipt, read_tensors(_model_of(path))[0]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, unreadable) as error:
        raise ReceiptUnreadable(f"{path} is no whole receipt: {error}") from error


def _see_that_it_can_be(receipt: Receipt) -> None:
    """Raise ValueError for what no update of this site was: a path in place of a digest, a part of the data that there is not."""
    for name, value in asdict(receipt.digests).items():
        if not _SHA256.fullmatch(value):
            raise ValueError(f"{name} needs to be 64 digits 0-9a-f, and is {value!r:.100}")
    if not 0 <= receipt.partition_id < receipt.num_partitions:
        raise ValueError(f"partition_id {receipt.partition_id} is not below num_partitions {receipt.num_partitions}")
    for name, number in {**asdict(receipt.limits), "batch_size": receipt.hyperparameters.batch_size}.items():
        if number <= 0:
            raise ValueError(f"{name} needs to be above 0, and is {number}")


def _write(path: Path, receipt: Receipt, model_in: Arrays) -> None:
    """Write both files or none. Raises OSError.

    Another ClientApp that lets go of old runs may take the folder while it is empty, so there are some tries.
    """
    text = json.dumps(asdict(receipt), indent=2, allow_nan=False) + "\n"
    for left in reversed(range(TRIES)):
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.unlink(missing_ok=True)  # of an earlier try of the round, whose model it is no more
            write_tensors(_model_of(path), model_in, {})
            kept.write_whole(path, text.encode())
            return
        except (FileNotFoundError, FileExistsError):  # the latter of a mkdir that finds it, and then does not
            if not left:
                raise
        except OSError:
            _model_of(path).unlink(missing_ok=True)
            raise


def _let_go_of_the_oldest(folder: Path) -> None:
    """Keep so many updates and bytes, with what a writer that was killed has left; a run of which nothing is left goes too."""
    updates = {path.with_suffix(".json") for path in _find(folder, "round-*")}
    kept.remove_oldest([(each, _model_of(each), part_of(_model_of(each))) for each in updates], MOST, MOST_BYTES)
    for run in folder.iterdir():
        with suppress(OSError):  # it is not empty
            kept.remove_scratch(run)
            run.rmdir()


def _find(folder: Path, pattern: str) -> list[Path]:
    """Find files of all runs, while another ClientApp may delete some of them with their folders."""
    found: list[Path] = []
    with suppress(FileNotFoundError):
        for run in folder.iterdir():
            with suppress(OSError):
                found += run.glob(pattern)
    return found


def _model_of(path: Path) -> Path:
    return path.with_suffix(".safetensors")
