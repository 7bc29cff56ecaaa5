"""A database as a year's work leaves it, filled through the store as servers fill it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from db.store import Store

BATCH = 1000  # log lines a call
AT = "2026-11-22T08:00:00.000Z"


@dataclass(frozen=True)
class Size:
    """How much there is. Every run has `rounds` rounds of `nodes_a_round` nodes, and each update three metrics."""

    nodes: int = 1000
    runs: int = 200
    rounds: int = 10
    nodes_a_round: int = 32
    batches_a_run: int = 5

    @property
    def log_lines(self) -> int:
        return self.runs * self.batches_a_run * BATCH

    @property
    def metrics(self) -> int:
        return self.runs * self.rounds * (3 * self.nodes_a_round + 4)


@dataclass(frozen=True)
class Filled:
    """What is in the database, and how long each call of `append_log_lines` took, in seconds."""

    project_id: str
    node_ids: list[str]
    run_ids: list[str]
    intake_s: list[float]


async def fill(store: Store, project_id: str, size: Size) -> Filled:
    nodes = [await node(store, project_id, number) for number in range(size.nodes)]
    runs, intake_s = [], []
    for number in range(size.runs):
        run_id = await ended_run(store, project_id, number, size)
        runs.append(run_id)
        intake_s += [await log_batch(store, run_id, batch) for batch in range(size.batches_a_run)]
    return Filled(project_id, nodes, runs, intake_s)


async def node(store: Store, project_id: str, number: int, token: str | None = None) -> str:
    """Enrol a node that is online, with hardware and one data set; token: what its client server shows."""
    secret, name = sha256(f"invitation {uuid4()}"), f"site-{number:04}-{uuid4().hex[:6]}"
    await store.create_invitation(project_id, secret, name, 60)
    flower_id = str(10**18 + uuid4().int % 10**18)
    row = await store.redeem_invitation(secret, name, name, "key", flower_id, sha256(token or f"token {uuid4()}"))
    facts = {"supernode_state": "running", "reported_at": AT}
    session = {"session_id": str(uuid4()), "status": "running", "pid": 1, "flower_node_id": flower_id}
    hardware = {"cpu": {"model": "x86_64", "cores": 16}, "memory_bytes": 64 * 2**30, "gpus": []}
    inventory = {"hardware": hardware, "datasets": [{"id": name, "num_examples": 20_000, "features": 30}]}
    lines = [{"seq": 1, "kind": "session", "data": session}, {"seq": 2, "kind": "inventory", "data": inventory}]
    await store.accept_reports(row["id"], "spool", lines)
    await store.beat(row["id"], facts)
    return str(row["id"])


async def ended_run(store: Store, project_id: str, number: int, size: Size) -> str:
    run = await store.begin_run(project_id, "flower-app", "f" * 64, {"num-rounds": size.rounds, "lr": 0.1}, None, "shell")
    attempt = str(2 * 10**18 + number)
    await store.begin_attempt(run["id"], attempt, attempt)
    await store.apply_journal(run["id"], list(journal(attempt, size)), 1)
    return str(run["id"])


def journal(attempt: str, size: Size) -> Iterator[dict[str, Any]]:
    """Give a completed run's records, as docs/journal.md has them."""
    seq = 0

    def record(kind: str, **fields: Any) -> dict[str, Any]:
        nonlocal seq
        seq += 1
        return {"seq": seq, "at": AT, "attempt": attempt, "kind": kind, **fields}

    nodes = [str(3 * 10**18 + number) for number in range(size.nodes_a_round)]
    opened = {"workload": "digits", "strategy": "fedavg", "num_rounds": size.rounds, "seed": 42, "min_available": 2}
    model = {"parameters": 13_706, "size_bytes": 54_824}
    yield record("run.opened", **opened, resumed_after=0, model=model, config={"lr": 0.1})
    for number in range(1, size.rounds + 1):
        yield record("round.opened", round=number, nodes=nodes, needed=len(nodes))
        for node_id in nodes:
            told = {"num_examples": 480, "metrics": {"train_loss": 0.5, "eval_loss": 0.6, "eval_accuracy": 0.9}}
            told |= {"bytes_down": 56_000, "bytes_up": 56_200, "timings": {"total_s": 1.5, "train_s": 1.1}, "cause": None}
            told |= {"facts": {"node_name": f"node {node_id[-4:]}"}, "message_id": f"{number}-{node_id}", "status": "counted"}
            yield record("update", round=number, node_id=node_id, update_kind="train", wave=0, **told)
        closed: dict[str, Any] = {"counted": len(nodes), "expected": len(nodes), "num_examples": 480 * len(nodes), "seconds": 2.5}
        closed |= {"metrics": {"train_loss": 0.5, "eval_loss": 0.6}, "server_metrics": {"accuracy": 0.9, "loss": 0.6}}
        commit = {"file": f"commit/round-{number}.safetensors", "sha256": "a" * 64, "size_bytes": 54_824}
        yield record("round.closed", round=number, **closed, aggregate_s=0.01, bytes_down=1, bytes_up=1, commit=commit)
    yield record("run.closed", status="completed", last_round=size.rounds, cause=None)


async def log_batch(store: Store, run_id: str, batch: int) -> float:
    """Append a thousand lines as the admin server does from a ServerApp's output, and give the seconds."""
    lines = [log_line(number) for number in range(BATCH)]
    start = time.perf_counter()
    await store.append_log_lines(run_id, "attempt", batch * BATCH, (batch + 1) * BATCH, lines)
    return time.perf_counter() - start


def log_line(number: int) -> dict[str, Any]:
    text = f"INFO :      round {number % 10}: node {number % 32} sent an update of 56,200 bytes after 1.1 s, loss 0.4821"
    return {"at": AT, "level": "error" if number % 50 == 0 else "info", "text": text, "source": "serverapp", "node_id": None}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
