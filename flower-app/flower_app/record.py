"""The record of a run: journal, commits, artifacts and reports, written in the order that makes a crash harmless."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from flower_app.causes import Cause
from flower_app.clock import Clock
from flower_app.commit import Commit, CommitFolder
from flower_app.config import RunConfig
from flower_app.journal import Journal
from flower_app.reports import Reports
from flower_app.returning import last_asked
from flower_app.run_directory import RunDirectory
from flower_app.tensor_file import write_tensors
from flower_app.updates import ClosedRound, Update
from flower_app.workloads.interface import Arrays

COMPLETED, FAILED, STOPPED = "completed", "failed", "stopped"
CHECKPOINT, FINAL = "checkpoint", "final"


class RunMismatch(RuntimeError):
    """The run directory belongs to a run that this config cannot go on with."""


class RunRecord(Protocol):
    """What the engine tells of a run, and what it finds when it goes on with one."""

    def node_names(self) -> dict[int, str]: ...

    def last_asked(self) -> list[int]: ...

    def last_commit(self, config: RunConfig) -> Commit | None: ...

    def opened(self, config: RunConfig, model: Arrays, resumed_after: int) -> None: ...

    def round_opened(self, number: int, nodes: Sequence[int], needed: int) -> None: ...

    def updated(self, update: Update) -> None: ...

    def round_closed(self, closed: ClosedRound, commit: Commit, strategy: str) -> None: ...

    def keep(self, role: str, number: int, arrays: Arrays) -> None: ...

    def paused(self, after_round: int) -> None: ...

    def resumed(self, after_round: int) -> None: ...

    def closed(self, status: str, cause: Cause | None = None) -> None: ...

    def release(self) -> None: ...


class RecordedRun:
    """A run with a run directory, opened for one attempt."""

    def __init__(self, root: Path, attempt: str, clock: Clock) -> None:
        """Raises JournalBusy, JournalDamaged."""
        self._directory = RunDirectory(root)
        self._journal = Journal(self._directory.journal, attempt, clock)
        self._past = self._journal.past
        self._commits = CommitFolder(self._directory.commits)
        self._reports = Reports(self._directory, self._past)
        self._committed = {each["round"]: each["commit"] for each in self._past if each["kind"] == "round.closed"}
        self._kept = {(each["role"], each["round"]) for each in self._past if each["kind"] == "artifact"}

    def node_names(self) -> dict[int, str]:
        """Give the names that nodes told earlier attempts."""
        updates = [each for each in self._past if each["kind"] == "update"]
        return {int(each["node_id"]): str(each["facts"]["node_name"]) for each in updates if each["facts"].get("node_name")}

    def last_asked(self) -> list[int]:
        """Give the nodes of the last round of earlier attempts."""
        return last_asked(self._past)

    def last_commit(self, config: RunConfig) -> Commit | None:
        """Give the last committed round, or None for a fresh run.

        Raises RunMismatch, CommitDamaged.
        """
        for each in self._past:
            if each["kind"] == "run.opened":
                for name, wanted in (("workload", config.workload), ("strategy", config.strategy)):
                    if each[name] != wanted:
                        raise RunMismatch(f'this run directory holds a run with {name} "{each[name]}", not "{wanted}"')
        if not self._committed:
            return None
        last = max(self._committed)
        return self._commits.read(last, self._committed[last])

    def opened(self, config: RunConfig, model: Arrays, resumed_after: int) -> None:
        """Begin an attempt."""
        record = self._journal.append(
            "run.opened",
            {
                "workload": config.workload,
                "strategy": config.strategy,
                "num_rounds": config.num_rounds,
                "seed": config.seed,
                "min_available": config.min_available,
                "resumed_after": resumed_after,
                "initial_model": config.initial_model or None,
                "model": {
                    "parameters": sum(values.size for values in model.values()),
                    "size_bytes": sum(values.nbytes for values in model.values()),
                },
                "config": dict(config.values),
            },
            durable=True,
        )
        self._reports.opened(record)

    def round_opened(self, number: int, nodes: Sequence[int], needed: int) -> None:
        """Say whom a round asks, before its messages leave."""
        self._journal.append("round.opened", {"round": number, "nodes": [str(node) for node in nodes], "needed": needed})

    def updated(self, update: Update) -> None:
        """Say what became of one message."""
        self._reports.updated(self._journal.append("update", update.record()))

    def round_closed(self, closed: ClosedRound, commit: Commit, strategy: str) -> None:
        """Commit a round: the file first, then its line, then what neither needs any more goes."""
        written = self._commits.write(commit, strategy)
        proof = {
            "file": written.path.relative_to(self._directory.root).as_posix(),
            "sha256": written.sha256,
            "size_bytes": written.size_bytes,
        }
        record = self._journal.append("round.closed", {**closed.record(), "commit": proof}, durable=True)
        self._committed[closed.round] = proof
        self._commits.forget_before(closed.round)
        self._reports.closed(record)

    def keep(self, role: str, number: int, arrays: Arrays) -> None:
        """Keep the model of a committed round as an artifact; what an earlier attempt kept is not kept twice."""
        if (role, number) in self._kept:
            return
        name = FINAL if role == FINAL else f"round_{number:04}"
        written = write_tensors(self._directory.models / f"{name}.safetensors", arrays, {"round": str(number)})
        self._journal.append(
            "artifact",
            {
                "name": name,
                "role": role,
                "path": written.path.relative_to(self._directory.root).as_posix(),
                "sha256": written.sha256,
                "size_bytes": written.size_bytes,
                "format": "safetensors",
                "round": number,
                "parents": [self._committed[number]["sha256"]],
            },
            durable=True,
        )
        self._kept.add((role, number))

    def paused(self, after_round: int) -> None:
        """Say that the run holds before its next round."""
        self._journal.append("run.paused", {"after_round": after_round}, durable=True)

    def resumed(self, after_round: int) -> None:
        """Say that a paused run goes on."""
        self._journal.append("run.resumed", {"after_round": after_round}, durable=True)

    def closed(self, status: str, cause: Cause | None = None) -> None:
        """End the attempt; who waits for a completed run finds its chart drawn, who stops one does not wait for it."""
        if status == COMPLETED:
            self._reports.close()
        self._journal.append(
            "run.closed",
            {
                "status": status,
                "last_round": max(self._committed, default=0),
                "cause": cause.record() if cause else None,
            },
            durable=True,
        )

    def release(self) -> None:
        """Let go of the journal and its lock."""
        self._reports.close()
        self._journal.close()


class Unrecorded:
    """A run without a run directory: it trains, and nothing of it stays."""

    def node_names(self) -> dict[int, str]:
        return {}

    def last_asked(self) -> list[int]:
        return []

    def last_commit(self, config: RunConfig) -> Commit | None:
        return None

    def opened(self, config: RunConfig, model: Arrays, resumed_after: int) -> None: ...

    def round_opened(self, number: int, nodes: Sequence[int], needed: int) -> None: ...

    def updated(self, update: Update) -> None: ...

    def round_closed(self, closed: ClosedRound, commit: Commit, strategy: str) -> None: ...

    def keep(self, role: str, number: int, arrays: Arrays) -> None: ...

    def paused(self, after_round: int) -> None: ...

    def resumed(self, after_round: int) -> None: ...

    def closed(self, status: str, cause: Cause | None = None) -> None: ...

    def release(self) -> None: ...
