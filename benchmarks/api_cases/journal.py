"""What does the journal cost the ServerApp? CPU seconds of its own process, for rounds of three nodes and the digits model."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from flower_app.clock import SystemClock
from flower_app.commit import Commit
from flower_app.journal import Journal
from flower_app.record import RecordedRun
from flower_app.updates import ClosedRound, Update

NODES, ROUNDS, PARAMETERS = 3, 50, 13_706


def cpu_ms_a_round() -> float:
    """Give the median of one round's records, written and made durable."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl", "77", SystemClock())
        costs = []
        for number in range(1, ROUNDS + 1):
            start = time.process_time()
            journal.append("round.opened", {"round": number, "nodes": [str(node) for node in range(NODES)], "needed": NODES})
            for node in range(NODES):
                journal.append("update", update(number, node).record())
            proof = {"file": f"commit/round-{number}.safetensors", "sha256": "a" * 64, "size_bytes": 54_824}
            journal.append("round.closed", {**closed(number).record(), "commit": proof}, durable=True)
            costs.append(time.process_time() - start)
        journal.close()
    return statistics.median(costs) * 1000


def record_cpu_ms_a_round() -> float:
    """Give the median of all that is kept of a round: journal, commit file with its sha256, reports for people and chart."""
    arrays = {"weights": np.zeros(PARAMETERS, dtype=np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        record = RecordedRun(Path(folder), "77", SystemClock())
        costs = []
        for number in range(1, ROUNDS + 1):
            start = time.process_time()
            record.round_opened(number, list(range(NODES)), NODES)
            for node in range(NODES):
                record.updated(update(number, node))
            record.round_closed(closed(number), Commit(number, arrays, {}), "fedavg")
            costs.append(time.process_time() - start)
        record.release()
    return statistics.median(costs) * 1000


def update(number: int, node: int) -> Update:
    return Update(
        round=number,
        node_id=10**18 + node,
        message_id=f"{number}-{node}",
        status="counted",
        bytes_down=56_000,
        bytes_up=56_200,
        num_examples=480,
        metrics={"train_loss": 0.5, "eval_loss": 0.6, "eval_accuracy": 0.9},
        timings={"total_s": 1.5, "train_s": 1.1},
        facts={"node_name": f"site-{node}"},
    )


def closed(number: int) -> ClosedRound:
    return ClosedRound(
        round=number,
        counted=NODES,
        carried=0,
        expected=NODES,
        num_examples=480 * NODES,
        metrics={"train_loss": 0.5, "eval_loss": 0.6, "eval_accuracy": 0.9},
        server_metrics={"accuracy": 0.9, "loss": 0.6},
        seconds=2.5,
        aggregate_s=0.01,
        bytes_down=168_000,
        bytes_up=168_600,
    )
