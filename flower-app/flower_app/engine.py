"""The round engine: it asks nodes, takes their updates in as they come, commits each round, and can go on after any crash.

gate ──enough nodes──▶ send ──▶ collect ──closed──▶ aggregate ──▶ evaluate ──▶ commit ──▶ keep ─┐
 ▲  └─pause: hold                 │ no valid update                                             │
 └────────────────────────────────┼──────────────── next round ◀────────────────────────────────┘
                                  ▼
                              RoundFailed          control.json wants stop, at any poll ──▶ StopAsked
"""

import time
from dataclasses import replace
from logging import INFO

from flwr.common.logger import log
from flwr.serverapp import Grid

from flower_app.causes import Cause
from flower_app.clock import Clock
from flower_app.commit import Commit
from flower_app.config import RunConfig
from flower_app.control import Control, ControlFile, StopAsked
from flower_app.first_model import first_model
from flower_app.record import CHECKPOINT, COMPLETED, FINAL, STOPPED, RunRecord
from flower_app.returning import Returning
from flower_app.round import POLL_S, OpenRound, Sent, pulled
from flower_app.selection import Presence, Select, select_all
from flower_app.strategies import StrategyDriver
from flower_app.updates import COUNTED, LOST, ClosedRound, Update
from flower_app.wire import to_record
from flower_app.workloads.interface import Arrays, Metrics, Workload

PROGRESS_EVERY_S = 5.0
NODES_TOLD = 20


class RoundFailed(RuntimeError):
    """A round ended without one valid update; cause is the node's that says most."""

    def __init__(self, number: int, updates: list[Update]) -> None:
        causes = [update.cause for update in sorted(updates, key=_says_least) if update.cause]
        told = [cause.sentence() for cause in causes[:NODES_TOLD]]
        told += [f"and {len(causes) - NODES_TOLD} more nodes"] if len(causes) > NODES_TOLD else []
        super().__init__(f"round {number} had no valid update. {'; '.join(told)}")
        self.cause = replace(causes[0], message=str(self)) if causes else None


class TooFewNodes(RuntimeError):
    """Not enough nodes came in time."""


class RoundEngine:
    """Drives one attempt of a run from its last committed round to its last round."""

    def __init__(
        self,
        grid: Grid,
        config: RunConfig,
        workload: Workload,
        strategy: StrategyDriver,
        record: RunRecord,
        control: ControlFile,
        clock: Clock,
        select: Select = select_all,
    ) -> None:
        self._grid, self._config, self._workload, self._strategy = grid, config, workload, strategy
        self._record, self._control_file, self._clock, self._select = record, control, clock, select
        self._names = record.node_names()
        self._returning = Returning(record.last_asked())
        self._owed: dict[str, Sent] = {}
        self._arrays: Arrays = {}
        self._last_round = 0

    def run(self) -> str:
        """Run all rounds that are left, keep the final model, and give how it ended: "completed" or "stopped".

        Raises RoundFailed, TooFewNodes, CommitDamaged, RunMismatch, and what Flower or the workload raises.
        """
        status = COMPLETED
        try:
            self._all_rounds()
        except StopAsked:
            status = STOPPED
        if self._last_round:
            self._record.keep(FINAL, self._last_round, self._arrays)
        return status

    def _all_rounds(self) -> None:
        commit = self._record.last_commit(self._config)
        if commit:
            self._strategy.restore(commit.state)
            self._last_round = commit.round
        self._arrays = commit.arrays if commit else first_model(self._workload.initial_arrays(), self._config.initial_model)
        self._record.opened(self._config, self._arrays, self._last_round)
        if self._last_round:
            self._keep_checkpoint()  # a crash may have come between the round and its artifact
            log(INFO, "going on after round %d", self._last_round)
        for number in range(self._last_round + 1, self._config.num_rounds + 1):
            self._one_round(number, self._wait_for_nodes(number))
            self._keep_checkpoint()

    def _one_round(self, number: int, available: list[int]) -> None:
        started = self._clock.monotonic()
        nodes = self._select(number, available)
        messages = self._strategy.messages(number, to_record(self._arrays), nodes, self._grid)
        needed = len(messages)
        self._record.round_opened(number, [message.metadata.dst_node_id for message in messages], needed)
        opened = OpenRound(number, self._arrays, self._grid, self._clock, self._control, self._updated, self._names.get)
        opened.send(messages)
        del messages
        opened.collect(needed, started + self._config.round_timeout_s)
        self._owed |= opened.close()
        if not opened.mean.count:
            raise RoundFailed(number, opened.updates)
        start = time.perf_counter()
        arrays = self._strategy.aggregate(number, opened.mean)
        aggregate_s = opened.aggregate_s + time.perf_counter() - start
        server_metrics = self._evaluated(number, arrays)
        closed = ClosedRound(
            round=number,
            counted=opened.mean.count,
            expected=needed,
            num_examples=opened.mean.num_examples,
            metrics=opened.mean.metrics(),
            server_metrics=server_metrics,
            seconds=self._clock.monotonic() - started,
            aggregate_s=aggregate_s,
            bytes_down=sum(update.bytes_down for update in opened.updates),
            bytes_up=sum(update.bytes_up for update in opened.updates),
        )
        self._record.round_closed(closed, Commit(number, arrays, self._strategy.state()), self._strategy.name)
        self._arrays, self._last_round = arrays, number
        log(INFO, "%s", progress_line(closed, self._config.num_rounds))

    def _evaluated(self, number: int, arrays: Arrays) -> Metrics:
        every = self._config.server_eval_every
        evaluate = getattr(self._workload, "server_evaluate", None)
        if evaluate is None or not every or (number % every and number != self._config.num_rounds):
            return {}
        return {name: float(value) for name, value in evaluate(arrays).items()}

    def _keep_checkpoint(self) -> None:
        every = self._config.checkpoint_every
        if every and self._last_round % every == 0:
            self._record.keep(CHECKPOINT, self._last_round, self._arrays)

    def _updated(self, update: Update) -> None:
        if "node_name" in update.facts:
            self._names[update.node_id] = str(update.facts["node_name"])
        self._record.updated(update)
        if update.status != COUNTED and update.cause:
            log(INFO, "round %d: %s: %s", update.round, update.status, update.cause.sentence())

    def _control(self) -> Control:
        control = self._control_file.read()
        if control.want == "stop":
            raise StopAsked
        return control

    def _hold_while_paused(self) -> float:
        """Give the seconds that the run was held."""
        if self._control().want != "pause":
            return 0.0
        started = self._clock.monotonic()
        self._record.paused(self._last_round)
        log(INFO, "paused after round %d", self._last_round)
        while self._control().want == "pause":
            self._clock.sleep(POLL_S)
        self._record.resumed(self._last_round)
        log(INFO, "going on after the pause")
        return self._clock.monotonic() - started

    def _wait_for_nodes(self, number: int) -> list[int]:
        """Hold while paused, and until min-available nodes can start at once, telling every few seconds who is missing.

        Raises TooFewNodes.
        """
        wanted, limit_s = self._config.min_available, self._config.min_available_timeout_s
        started, told = self._clock.monotonic(), -PROGRESS_EVERY_S
        while True:
            started += self._hold_while_paused()
            available = self._available()
            waited = self._clock.monotonic() - started
            missing = self._returning.missing(available, self._control().nodes, waited, limit_s)
            if len(available) >= wanted and not missing:
                self._returning.are_back()
                return available
            if waited >= limit_s:
                raise TooFewNodes(f"{len(available)} of {wanted} nodes were available after {limit_s:g} s{self._told(missing)}")
            if waited - told >= PROGRESS_EVERY_S:
                told = waited
                left = limit_s - waited
                there = f"{len(available)} of {wanted} available, {left:.0f} s left{self._told(missing)}"
                log(INFO, "round %d waits for nodes: %s", number, there)
            self._clock.sleep(POLL_S)

    def _told(self, missing: list[int]) -> str:
        names = ", ".join(self._names.get(node, str(node)) for node in missing)
        return f"; not back from the round before: {names}" if missing else ""

    def _available(self) -> list[int]:
        lost = self._control().lost_nodes
        for group in pulled(self._grid, list(self._owed), self._arrays):
            for reply in group:  # too late to count: the node is free again
                self._owed.pop(reply.metadata.reply_to_message_id, None)
        self._owed = {message_id: sent for message_id, sent in self._owed.items() if sent.node_id not in lost}
        online = list(self._grid.get_nodes())
        self._names |= {node.node_id: node.name for node in online if node.name and node.node_id not in self._names}
        owing = [sent.node_id for sent in self._owed.values()]
        return Presence([node.node_id for node in online], owing, lost).available()


def progress_line(closed: ClosedRound, num_rounds: int) -> str:
    """Say a round in one line."""
    scores = closed.server_metrics or {
        name.removeprefix("eval_"): value for name, value in closed.metrics.items() if name.startswith("eval_")
    }
    told = "".join(f", {name} {scores[name]:.4f}" for name in ("accuracy", "loss") if name in scores)
    return (
        f"round {closed.round}/{num_rounds}: {closed.counted}/{closed.expected} updates{told}, {closed.seconds:.1f} s, "
        f"{closed.bytes_down} bytes down, {closed.bytes_up} bytes up"
    )


def _says_least(update: Update) -> int:
    """Order causes: what a node said itself comes before what was only seen from outside."""
    cause: Cause | None = update.cause
    return (update.status == LOST) * 2 + (cause is None or cause.traceback is None)
