"""The record of a run: journal, commits, artifacts and reports, written in the order that makes a crash harmless."""

from collections.abc import Sequence
from datetime import datetime
from logging import WARNING
from pathlib import Path
from typing import Protocol

from flwr.common.logger import log

from flower_app.causes import Cause
from flower_app.clock import Clock
from flower_app.commit import Commit, CommitDamaged, CommitFolder
from flower_app.config import RunConfig
from flower_app.journal import Journal
from flower_app.keeping import BEST, CHECKPOINT, FINAL, KeptModels, Score, Wants, score_of
from flower_app.reports import Reports
from flower_app.returning import Returning
from flower_app.run_directory import RunDirectory
from flower_app.updates import ClosedRound, Update
from flower_app.workloads.interface import Arrays, Metrics

COMPLETED, FAILED, STOPPED = "completed", "failed", "stopped"


class RunMismatch(RuntimeError):
    """The run directory belongs to a run that this config cannot go on with."""


class RunRecord(Protocol):
    """What the engine tells of a run, and what it finds when it goes on with one."""

    def node_names(self) -> dict[int, str]: ...

    def opened_at(self) -> datetime | None: ...

    def asked(self) -> list[int]: ...

    def returning(self) -> Returning: ...

    def last_commit(self, config: RunConfig) -> Commit | None: ...

    def opened(self, config: RunConfig, model: Arrays, resumed_after: int, whole: tuple[int, int] | None) -> None: ...

    def waiting(self, number: int, available: int, wanted: int, until: datetime) -> None: ...

    def round_opened(self, number: int, nodes: Sequence[int], needed: int) -> None: ...

    def updated(self, update: Update) -> None: ...

    def round_closed(self, closed: ClosedRound, commit: Commit, strategy: str) -> None: ...

    def scored(self, number: int, asked: int, counted: int, metrics: Metrics) -> None: ...

    def last_scores(self) -> tuple[Metrics, Metrics]: ...

    def keep_wanted(self, config: RunConfig, number: int, arrays: Arrays) -> None: ...

    def keep_scored(self, config: RunConfig, number: int, arrays: Arrays) -> None: ...

    def keep_final(self, number: int, arrays: Arrays) -> None: ...

    def paused(self, after_round: int) -> None: ...

    def resumed(self, after_round: int) -> None: ...

    def closed(self, status: str, cause: Cause | None = None, ended_early: str | None = None) -> None: ...

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
        self._closed = {each["round"]: each for each in self._past if each["kind"] == "round.closed"}
        self._scored = {each["round"]: each for each in self._past if each["kind"] == "round.scored"}
        self._committed = {number: each["commit"] for number, each in self._closed.items()}
        self._models = KeptModels(self._directory, self._journal, self._past)

    def node_names(self) -> dict[int, str]:
        """Give the names that nodes told earlier attempts."""
        updates = [each for each in self._past if each["kind"] == "update"]
        return {int(each["node_id"]): str(each["facts"]["node_name"]) for each in updates if each["facts"].get("node_name")}

    def opened_at(self) -> datetime | None:
        """Say when the first attempt opened the run; None for the first one."""
        opened = [each["at"] for each in self._past if each["kind"] == "run.opened"]
        return datetime.fromisoformat(opened[0]) if opened else None

    def asked(self) -> list[int]:
        """Give all nodes that earlier attempts asked, the first ones first."""
        opened = [each["nodes"] for each in self._past if each["kind"] == "round.opened"]
        return list(dict.fromkeys(int(node) for nodes in opened for node in nodes))

    def returning(self) -> Returning:
        """Say whom this attempt waits for."""
        return Returning.of(self._past)

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

    def opened(self, config: RunConfig, model: Arrays, resumed_after: int, whole: tuple[int, int] | None) -> None:
        """Begin an attempt. whole: parameters and bytes of the model of which `model` is the part that travels."""
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
                    "whole_parameters": int(whole[0]) if whole else None,
                    "whole_size_bytes": int(whole[1]) if whole else None,
                },
                "config": dict(config.values),
            },
            durable=True,
        )
        self._reports.opened(record)

    def waiting(self, number: int, available: int, wanted: int, until: datetime) -> None:
        """Say that a round cannot begin yet, and when the run gives up."""
        shown = until.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._journal.append("round.waiting", {"round": number, "available": available, "wanted": wanted, "until": shown})

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
        self._closed[closed.round], self._committed[closed.round] = record, proof
        self._commits.forget_before(closed.round)
        self._reports.closed(record)

    def scored(self, number: int, asked: int, counted: int, metrics: Metrics) -> None:
        """Say what sites scored the model of a committed round."""
        told = {"round": number, "expected": asked, "counted": counted, "metrics": metrics}
        self._scored[number] = self._journal.append("round.scored", told)

    def last_scores(self) -> tuple[Metrics, Metrics]:
        """Give what the server and what the sites said of the last committed round."""
        last = self._closed[max(self._closed)]
        scored = self._scored.get(last["round"], {"metrics": {}})
        return last["server_metrics"], {**last["metrics"], **scored["metrics"]}

    def keep_wanted(self, config: RunConfig, number: int, arrays: Arrays) -> None:
        """Keep of a committed round what the config wants kept, then remove what it wants no longer; twice does no more."""
        wants = Wants.of(config)
        if wants.is_checkpoint(number):
            self._models.keep(CHECKPOINT, number, arrays, self._committed[number]["sha256"])
        self._keep_if_better(wants, score_of(self._closed[number], wants.best_metric), number, arrays)
        if number in self._scored:
            self._keep_if_better(wants, score_of(self._scored[number], wants.best_metric), number, arrays)
        self._models.let_go(wants)

    def keep_scored(self, config: RunConfig, number: int, arrays: Arrays) -> None:
        """Keep the model of a committed round that sites have scored, if it is the best so far."""
        wants = Wants.of(config)
        self._keep_if_better(wants, score_of(self._scored[number], wants.best_metric), number, arrays)
        self._models.let_go(wants)

    def _keep_if_better(self, wants: Wants, score: Score | None, number: int, arrays: Arrays) -> None:
        if score is not None and wants.is_better(score, self._models.best_score()):
            self._keep_best(score, arrays if score.round == number else None)

    def keep_final(self, number: int, arrays: Arrays) -> None:
        """Keep the model after the last round, whatever the config wants."""
        self._models.keep(FINAL, number, arrays, self._committed[number]["sha256"])

    def _keep_best(self, score: Score, arrays: Arrays | None) -> None:
        """Keep the model that was scored. arrays: None for the round before the last, whose commit has it."""
        commit = self._committed[score.round]
        try:
            best = self._commits.read(score.round, commit).arrays if arrays is None else arrays
        except CommitDamaged as damaged:  # the run can go on without it
            log(WARNING, "the best model so far is not kept: %s", damaged)
            return
        self._models.keep(BEST, score.round, best, commit["sha256"], score)

    def paused(self, after_round: int) -> None:
        """Say that the run holds before its next round."""
        self._journal.append("run.paused", {"after_round": after_round}, durable=True)

    def resumed(self, after_round: int) -> None:
        """Say that a paused run goes on."""
        self._journal.append("run.resumed", {"after_round": after_round}, durable=True)

    def closed(self, status: str, cause: Cause | None = None, ended_early: str | None = None) -> None:
        """End the attempt; who waits for a completed run finds its chart drawn, who stops one does not wait for it.

        ended_early: why a completed run did not do all its rounds.
        """
        if status == COMPLETED:
            self._reports.close()
        self._journal.append(
            "run.closed",
            {
                "status": status,
                "last_round": max(self._committed, default=0),
                "cause": cause.record() if cause else None,
                "ended_early": ended_early,
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

    def opened_at(self) -> datetime | None:
        return None

    def asked(self) -> list[int]:
        return []

    def returning(self) -> Returning:
        return Returning.of([])

    def last_commit(self, config: RunConfig) -> Commit | None:
        return None

    def opened(self, config: RunConfig, model: Arrays, resumed_after: int, whole: tuple[int, int] | None) -> None: ...

    def waiting(self, number: int, available: int, wanted: int, until: datetime) -> None: ...

    def round_opened(self, number: int, nodes: Sequence[int], needed: int) -> None: ...

    def updated(self, update: Update) -> None: ...

    def round_closed(self, closed: ClosedRound, commit: Commit, strategy: str) -> None: ...

    def scored(self, number: int, asked: int, counted: int, metrics: Metrics) -> None: ...

    def last_scores(self) -> tuple[Metrics, Metrics]:
        return {}, {}

    def keep_wanted(self, config: RunConfig, number: int, arrays: Arrays) -> None: ...

    def keep_scored(self, config: RunConfig, number: int, arrays: Arrays) -> None: ...

    def keep_final(self, number: int, arrays: Arrays) -> None: ...

    def paused(self, after_round: int) -> None: ...

    def resumed(self, after_round: int) -> None: ...

    def closed(self, status: str, cause: Cause | None = None, ended_early: str | None = None) -> None: ...

    def release(self) -> None: ...
