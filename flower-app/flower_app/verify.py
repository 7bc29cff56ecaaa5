"""Run a site's updates again and compare them bit for bit: `python -m flower_app.verify --site NAME [--run RUN] [--round N]`.

At the site, where the data are: from what it kept of its updates (workloads/wasm/receipts.py) and its data folders. Without RUN
the newest update, with RUN all that are kept of it. `--record FILE` also compares what the coordinator recorded, the answer of
`GET /runs/{id}/updates`, with what was computed here. Exit code 0 when all is the same.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flower_app.config import ConfigError, RunConfig
from flower_app.workloads import make_workload
from flower_app.workloads.data_dirs import DATA_DIRS, DataMissing
from flower_app.workloads.guards import DataUnfit
from flower_app.workloads.interface import Arrays, NodeEnv
from flower_app.workloads.wasm.execution import execute
from flower_app.workloads.wasm.faults import TaskFault
from flower_app.workloads.wasm.kept import read_kept
from flower_app.workloads.wasm.modules import Found
from flower_app.workloads.wasm.receipts import (
    Digests,
    Receipt,
    ReceiptUnreadable,
    digest_of_data,
    find_receipts,
    read_receipt,
)
from flower_app.workloads.wasm.task import Task
from flower_app.workloads.wasm.workload import Wasm, task_of

PARTS = {
    "module_sha256": "module",
    "model_in_sha256": "model in",
    "data_sha256": "data",
    "config_sha256": "config",
    "model_out_sha256": "model out",
}
"""What makes up an update, by the names of its digests in a record."""


@dataclass(frozen=True)
class Recorded:
    """One update of the coordinator's record."""

    run_id: str
    round: int
    facts: Mapping[str, Any]


class NotVerified(RuntimeError):
    """An update is not the one that was computed, or cannot be run again."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify; a line for each update on stdout, or on stderr one that says what is wrong and exit code 1."""
    options = _parse(arguments)
    home = Path(os.environ.get("ESPALIER_HOME") or "~/.local/state/espalier").expanduser().absolute()
    cache_dir: Path = options.cache or home / "sites" / options.site / "cache"
    os.environ.setdefault(DATA_DIRS, os.environ.get("DATA_DIRS") or _default_data_dirs(home, cache_dir))
    try:
        record = None if options.record is None else read_record(options.record)
        paths = chosen(cache_dir, options.run, options.round)
    except (NotVerified, OSError) as error:
        print(f"verify: {error}", file=sys.stderr)
        return 1
    return max(_told(path, cache_dir, record) for path in paths)


def chosen(cache_dir: Path, run_id: str | None, round: int | None) -> list[Path]:
    """Choose receipts, in the order of the rounds: of a run, or the newest. Raises NotVerified."""
    newest = find_receipts(cache_dir, run_id)
    if round is not None and newest:
        newest = find_receipts(cache_dir, run_id or newest[0].parent.name, round)
    if not newest:
        which = f" of run {run_id}" * (run_id is not None) + f" of round {round}" * (round is not None)
        raise NotVerified(f"{cache_dir} holds no update{which}: a site keeps its last ones of workload wasm with runtime wasm")
    return newest[::-1] if run_id is not None or round is not None else newest[:1]


def verify(path: Path, cache_dir: Path) -> Receipt:
    """Run one update again. Raises NotVerified, ReceiptUnreadable, and what data and modules do."""
    receipt, model_in = read_receipt(path)
    digests = receipt.digests
    wasm = read_kept(cache_dir, digests.module_sha256)
    if wasm is None:
        raise NotVerified(f"module sha256:{digests.module_sha256} is not kept any more")
    task = task_again(receipt, model_in, cache_dir)
    now = digest_of_data(task)
    if now != digests.data_sha256:
        raise NotVerified(f"the site's data are not those of the update: sha256 {digests.data_sha256} then, {now} now")
    done = execute(Found(wasm, digests.module_sha256, "kept"), task, receipt.limits, cache_dir)
    if differing := _differing(digests, asdict(done.digests)):
        told = "; ".join(f"{PARTS[name]} is sha256 {new}, and was {old}" for name, old, new in differing)
        engines = (receipt.wasmtime, version("wasmtime"))
        raise NotVerified(told + ("" if engines[0] == engines[1] else f" (wasmtime {engines[0]} then, {engines[1]} now)"))
    return receipt


def task_again(receipt: Receipt, model_in: Arrays, cache_dir: Path) -> Task:
    """Make the task that a module was given, with the site's data as they are now.

    Raises NotVerified, ConfigError, DataMissing, DataUnfit.
    """
    config = RunConfig.parse(receipt.run_config)
    workload = make_workload(config)
    if not isinstance(workload, Wasm):
        raise NotVerified(f"workload {config.workload} trains in no sandbox")
    env = NodeEnv(
        node_name=receipt.node_name,
        partition_id=receipt.partition_id,
        num_partitions=receipt.num_partitions,
        round=receipt.round,
        seed=receipt.hyperparameters.seed,
        threads=1,
        device="cpu",
        cache_dir=cache_dir,
        run_id=receipt.run_id,
    )
    examples, _ = workload.own_examples(env)
    return task_of(model_in, examples, receipt.hyperparameters, env)


def read_record(name: str) -> list[Recorded]:
    """Read of a page of a run's updates those that a module has computed; - is stdin. Raises NotVerified, OSError."""
    try:
        told = json.loads(sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes())
        found = [Recorded(each["run_id"], each["round"], dict(each["facts"])) for each in told["items"]]
        return [each for each in found if "module_sha256" in each.facts]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotVerified(f"{name} is no answer of GET /runs/{{id}}/updates: {error!r:.200}") from error


def compare(receipt: Receipt, record: Sequence[Recorded]) -> None:
    """See that the coordinator has recorded what was computed here, in one of the round's tries. Raises NotVerified."""
    who = (receipt.node_name, receipt.partition_id)
    told = [
        each.facts
        for each in record
        if (each.run_id, each.round) == (receipt.run_id, receipt.round)
        and (each.facts.get("node_name"), each.facts.get("partition_id")) == who
    ]
    if not told:
        raise NotVerified(
            f"the record has no update of node {receipt.node_name} in round {receipt.round} of run {receipt.run_id}; "
            f"GET /runs/{{id}}/updates?round={receipt.round} lists those of the round"
        )
    found = [_differing(receipt.digests, facts) for facts in told]
    if all(found):
        parts = (f"{PARTS[name]} is recorded with sha256 {new}, and was {old}" for name, old, new in found[-1])
        raise NotVerified("; ".join(parts))


def _told(path: Path, cache_dir: Path, record: Sequence[Recorded] | None) -> int:
    """Verify one update and say what came of it; gives the exit code."""
    number = path.stem.split("-")[1]
    started = time.monotonic()
    try:
        receipt = verify(path, cache_dir)
        seconds = time.monotonic() - started
        if record is not None:
            compare(receipt, record)
    except (NotVerified, ReceiptUnreadable, ConfigError, DataMissing, DataUnfit, TaskFault, OSError) as error:
        print(f"round {number}: {error}", file=sys.stderr)
        return 1
    also = "" if record is None else ", and so recorded"
    print(f"round {number}: {', '.join(PARTS.values())}: the same, bit for bit{also} ({seconds:.2f} s)", flush=True)
    return 0


def _differing(then: Digests, now: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    return [(name, was, now.get(name)) for name, was in asdict(then).items() if now.get(name) != was]


def _default_data_dirs(home: Path, cache_dir: Path) -> str:
    """Give the folders that a client server reads where nobody says others, and before them the site's own."""
    return os.pathsep.join(map(str, (cache_dir.parent / "data", home / "data", "/usr/share/datasets")))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flower_app.verify", description=(__doc__ or "").partition(": ")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--site", metavar="NAME", help="its PARTICIPANT_NODE_ID, below $ESPALIER_HOME/sites")
    where.add_argument("--cache", type=lambda text: Path(text).absolute(), metavar="DIR", help="the site's cache folder")
    parser.add_argument("--run", metavar="RUN", help="its id (default: that of the newest update)")
    parser.add_argument("--round", type=int, metavar="N", help="one round (default: with --run all, else the newest)")
    parser.add_argument("--record", metavar="FILE", help="answer of GET /runs/{id}/updates to compare with; - is stdin")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
