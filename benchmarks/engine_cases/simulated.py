"""The engine over nodes that are not there: the real ServerApp's work, files included, and answers that are made up.

What a SuperLink costs is left out; what each node costs the engine (its message, its answer's checks, its records) is in.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from flower_app.attempt import conduct
from flower_app.clock import SystemClock
from flower_app.journal import read_journal
from flower_app.replies import ANSWERS, ARRAYS, CONFIG, METRICS, MODEL_SHA256, NUM_EXAMPLES, ROUND
from flower_app.wire import digest, to_arrays
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from tests.flower_app.conftest import FakeClock, InProcessGrid

DIGITS_MB = 0.055
"""The digits model: 13,706 weights."""

RUN_ID = 7


class MadeUpAnswers(InProcessGrid):
    """A grid of nodes that send the model back: the first ones at once, each later one after `apart_s` more seconds."""

    def __init__(self, nodes: int, apart_s: float = 0.0) -> None:
        super().__init__(FakeClock(), {})
        self._node_ids, self._apart_s = range(10**9, 10**9 + nodes), apart_s
        self._answers: dict[str, tuple[float, Message]] = {}
        self.ready_at: list[float] = []

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node_id, name=f"node-{node_id}") for node_id in self._node_ids]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages; the wall clock's times at which their answers will be there are in `ready_at`, in order."""
        sent, now = list(messages), time.time()
        self.ready_at = [now + number * self._apart_s for number in range(len(sent))]
        sha256 = digest(to_arrays(sent[0].content.array_records[ARRAYS]))  # all are sent the same model
        for message, ready_at in zip(sent, self.ready_at, strict=True):
            message.metadata.__dict__["_message_id"] = message.object_id
            self._answers[message.object_id] = (ready_at, answer_to(message, sha256))
        return [message.object_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        due = [message_id for message_id in message_ids if self._answers[message_id][0] <= time.time()]
        return [self._answers.pop(message_id)[1] for message_id in due]


def answer_to(message: Message, sha256: str) -> Message:
    """Send the model back, as our ClientApp answers."""
    server_round = int(str(message.content.config_records[CONFIG]["server-round"]))
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
        ARRAYS: message.content.array_records[ARRAYS],
        METRICS: MetricRecord({NUM_EXAMPLES: 10, "train_loss": 0.5, "eval_accuracy": 0.9}),
        ANSWERS: ConfigRecord({ROUND: server_round, MODEL_SHA256: sha256}),
    }
    return Message(RecordDict(records), reply_to=message)


def rounds(grid: MadeUpAnswers, folder: Path, **run_config: Any) -> list[dict[str, Any]]:
    """Do a run over these nodes and give the records of its journal."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # Message() refuses to be built outside a task
    config: dict[str, Any] = {
        "workload": "benchmarks.engine_cases.models:Sized",
        "model-mb": DIGITS_MB,
        "min-available": 1,
        "seed": 1,
    }
    config |= {name.replace("_", "-"): value for name, value in run_config.items()}
    conduct(grid, config, RUN_ID, {"ESPALIER_RUN_DIR": str(folder)}, SystemClock())
    return list(read_journal(folder / "journal.jsonl"))


def ms_a_node(nodes: int, num_rounds: int = 5) -> float:
    """Give the median of a round's time for each of its nodes, all of which answer at once."""
    with tempfile.TemporaryDirectory() as folder:
        journal = rounds(MadeUpAnswers(nodes), Path(folder), num_rounds=num_rounds)
    took = [float(line["seconds"]) for line in journal if line["kind"] == "round.closed"]
    return statistics.median(took) * 1000 / nodes


def close_after_the_kth_s(nodes: int = 10, k: int = 8, apart_s: float = 0.25, runs: int = 5) -> list[float]:
    """Give, for each of some rounds, the seconds from the k-th answer's being there to the round's line in the journal."""
    found = []
    for _ in range(runs):
        grid = MadeUpAnswers(nodes, apart_s)
        with tempfile.TemporaryDirectory() as folder:
            journal = rounds(grid, Path(folder), num_rounds=1, k_of_n=k)
        (closed,) = [line for line in journal if line["kind"] == "round.closed"]
        assert closed["counted"] == k, closed
        found.append(at(closed) - grid.ready_at[k - 1])
    return found


def commit_share_percent(megabytes: float, nodes: int = 3, num_rounds: int = 3) -> float:
    """Give the commit's share of a round that is nothing but the engine's own work: answers are there at once."""
    with tempfile.TemporaryDirectory() as folder:
        journal = rounds(MadeUpAnswers(nodes), Path(folder), num_rounds=num_rounds, model_mb=megabytes)
    opened = [line for line in journal if line["kind"] == "round.opened"]
    closed = [line for line in journal if line["kind"] == "round.closed"]
    whole = [at(last) - at(first) for first, last in zip(opened, closed, strict=True)]
    return statistics.median((one - float(line["seconds"])) / one * 100 for one, line in zip(whole, closed, strict=True))


def at(line: dict[str, Any]) -> float:
    """Give the wall clock of a journal's line, in seconds."""
    return datetime.fromisoformat(line["at"]).timestamp()
