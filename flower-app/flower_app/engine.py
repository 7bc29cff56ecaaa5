"""The round engine: it asks nodes, takes their updates in as they come, commits each round, and can go on after any crash.

gate ──enough nodes──▶ send ──▶ collect ──closed──▶ aggregate ──▶ score ──▶ commit ──▶ keep ──▶ sites score ─┐
 ▲  ├─pause: hold                 │ too few valid updates                                                      │
 │  ◀─────────retry, a few times──┤                                                                            │
 └────────────────────────────────┼──────────────── next round ◀───────────────────────────────────────────────┘
                                  ▼
                              RoundFailed          control.json wants stop, at any poll ──▶ StopAsked
"""

import time
from collections.abc import Iterable
from dataclasses import replace
from logging import INFO, WARNING

from flwr.common.logger import log
from flwr.serverapp import Grid

from flower_app.accumulate import HeldUpdates, MeanMetrics, WeightedMean
from flower_app.causes import Cause
from flower_app.clock import Clock
from flower_app.commit import Commit
from flower_app.config import RunConfig
from flower_app.control import Control, ControlFile, StopAsked
from flower_app.evaluation import Evaluation
from flower_app.first_model import first_model
from flower_app.gate import Gate, TooFewNodes
from flower_app.late import LateMessages
from flower_app.limits import RunClock, most_that_fit, see_that_updates_fit
from flower_app.link import is_of_the_way
from flower_app.products import products_of, see_that_they_are_factors
from flower_app.record import COMPLETED, STOPPED, RunRecord
from flower_app.replies import Asked, read_score, read_update
from flower_app.round import POLL_S, Around, OpenRound
from flower_app.selection import Presence, Select, known_first, select_all
from flower_app.strategies import MESSAGE_TTL_S, StrategyDriver
from flower_app.updates import COUNTED, EVALUATE, LOST, TRAIN, ClosedRound, Update
from flower_app.wire import digest
from flower_app.workloads.interface import Arrays, Metrics, Workload

TrainingRound = OpenRound[WeightedMean | HeldUpdates]
NODES_TOLD = 20
RETRY_S, RETRY_LONGEST_S = 1.0, 30.0


class RoundFailed(RuntimeError):
    """A round ended without enough valid updates; cause is the node's that says most."""

    def __init__(self, number: int, count: int, needed: int, tries: int, troubles: Iterable[Update], then: str = "") -> None:
        """count: valid updates of the last try. troubles: each node's last one, over all tries. then: why there was no other."""
        causes = [update.cause for update in sorted(troubles, key=_says_least) if update.cause]
        told = [cause.sentence() for cause in causes[:NODES_TOLD]]
        told += [f"and {len(causes) - NODES_TOLD} more nodes"] if len(causes) > NODES_TOLD else []
        had = f"had {count} valid updates of at least {needed}" if count or needed > 1 else "had no valid update"
        tried = f" in {tries} tries" if tries > 1 else ""
        told = ["; ".join(told)] + ([f"Then {then}"] if then else [])
        super().__init__(f"round {number} {had}{tried}. {'. '.join(told)}")
        self.cause = replace(causes[0], message=str(self)) if causes else None


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
        """Raises ConfigError for what strategy and workload cannot do together with the config."""
        self._grid, self._config, self._workload, self._strategy = grid, config, workload, strategy
        self._record, self._control_file, self._clock, self._select = record, control, clock, select
        self._products = products_of(workload, config, strategy.rule)
        self._names = record.node_names()
        self._around = Around(grid, clock, self._control, self._updated, self._names.get)
        self._min_free = max(strategy.least, config.k_of_n)
        self._gate = Gate(config, self._min_free, record, clock, self._control)
        self._late = LateMessages(config, grid, self._updated)
        self._evaluation = Evaluation(config, workload)
        self._limit = RunClock(config.run_timeout_s, record.opened_at(), clock)
        self._arrays: Arrays = {}
        self._last_round = 0
        self._asked = dict.fromkeys(record.asked())
        self._left_out: set[int] = set()
        self._troubles: dict[int, Update] = {}
        self.ended_early: str | None = None

    def run(self) -> str:
        """Run all rounds that are left, keep the final model, and give how it ended: "completed" or "stopped".

        Raises RoundFailed, TooFewNodes, RunTimeout, UpdatesDoNotFit, ModelNotFinite, NoProduct, CommitDamaged, RunMismatch, and
        what Flower or the workload raises; the last committed model is kept all the same, unless another attempt goes on with
        the run. Where Flower ends the process, one does unless a stop is wanted.
        """
        status = COMPLETED
        try:
            self._all_rounds()
        except StopAsked:
            status = STOPPED
        except BaseException as error:
            if self._is_the_runs_end(error):  # else another attempt goes on, and the last round is still to come
                self._keep_final()
            raise
        self._keep_final()
        return status

    def _all_rounds(self) -> None:
        commit = self._record.last_commit(self._config)
        if commit:
            self._strategy.restore(commit.state, commit.arrays)
            self._last_round = commit.round
        self._arrays = commit.arrays if commit else first_model(self._workload.initial_arrays(), self._config.initial_model)
        see_that_they_are_factors(self._products, self._arrays)
        whole_model = getattr(self._workload, "whole_model", None)
        self._record.opened(self._config, self._arrays, self._last_round, whole_model() if whole_model else None)
        if self._last_round:
            self._keep_models()  # a crash may have come between the round and its artifacts
            log(INFO, "going on after round %d", self._last_round)
            self.ended_early = self._evaluation.good_enough(*self._record.last_scores())
        while self._last_round < self._config.num_rounds and not self.ended_early:
            closed = self._round(self._last_round + 1)
            self._keep_models()
            scores = self._scored_by_sites(closed.round)
            self.ended_early = self._evaluation.good_enough(closed.server_metrics, {**closed.metrics, **scores})
        if self.ended_early:
            log(INFO, "stopping after round %d: %s", self._last_round, self.ended_early)

    def _round(self, number: int) -> ClosedRound:
        """Make one round happen, in a few tries if need be. Raises RoundFailed, TooFewNodes, UpdatesDoNotFit."""
        fewest = max(self._min_free, self._config.min_available)
        see_that_updates_fit(self._config, self._strategy.rule, self._arrays, fewest, self._products)
        self._troubles.clear()
        count, least = 0, self._strategy.least
        for tried in range(1, self._config.round_retries + 2):
            try:
                opened = self._one_try(number)
            except TooFewNodes as shortage:
                if tried == 1:
                    raise
                raise RoundFailed(number, count, least, tried - 1, self._troubles.values(), str(shortage)) from shortage
            count = opened.gathered.count
            if count >= least:
                return self._close(number, opened)
            failure = RoundFailed(number, count, least, tried, self._troubles.values())
            if tried <= self._config.round_retries:
                log(WARNING, "%s; trying again", failure)
                self._rest(min(RETRY_S * 2 ** (tried - 1), RETRY_LONGEST_S))
        raise failure

    def _rest(self, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        while (left_s := until - self._clock.monotonic()) > 0:
            self._control()
            self._clock.sleep(min(POLL_S, left_s))

    def _one_try(self, number: int) -> TrainingRound:
        free = self._gate.wait(number, self._present, self._hold_while_paused, self._name_of)
        nodes = self._that_fit(number, self._select(number, free))
        started = self._clock.monotonic()
        messages = self._strategy.messages(number, self._arrays, nodes, self._grid)
        needed = min(self._config.k_of_n or len(messages), len(messages))
        asked_nodes = [message.metadata.dst_node_id for message in messages]
        self._record.round_opened(number, asked_nodes, needed)
        self._asked |= dict.fromkeys(asked_nodes)
        limit = self._config.max_update_norm
        model = self._arrays if limit and self._late.carries else None
        asked = Asked(number, digest(self._arrays), limit, model, self._strategy.rule.reads, self._products)
        gathered = self._strategy.gathering(self._arrays, self._products)
        opened = TrainingRound(
            TRAIN, asked, self._arrays, read_update, gathered, self._around, started, awaits_late=self._late.carries
        )
        opened.send(messages)
        del messages
        opened.collect(needed, self._limit.deadline(started + self._config.round_timeout_s))
        if isinstance(gathered, WeightedMean):
            self._late.take_in(self._arrays)
            opened.carried = self._late.count_in(number, gathered, opened.counted(), self._strategy.least)
        self._late.add(opened.close(), opened.surplus, self._arrays)
        return opened

    def _that_fit(self, number: int, nodes: list[int]) -> list[int]:
        """Leave out whom there is no memory for, those that came last before others."""
        owing = len(self._late.owing()) if self._late.carries else 0
        most = most_that_fit(self._config, self._strategy.rule, self._arrays, len(nodes) + owing, self._products) - owing
        chosen = known_first(nodes, self._asked, max(most, self._min_free))
        left_out = set(nodes) - set(chosen)
        if left_out and left_out != self._left_out:
            names = ", ".join(self._name_of(node) for node in sorted(left_out)[:NODES_TOLD])
            why = "as the updates of more do not fit into server-memory-limit-mb"
            log(WARNING, "round %d asks %d of %d free nodes, %s; left out: %s", number, len(chosen), len(nodes), why, names)
        self._left_out = left_out
        return chosen

    def _close(self, number: int, opened: TrainingRound) -> ClosedRound:
        start = time.perf_counter()
        arrays = self._strategy.aggregate(number, opened.gathered, self._arrays)
        aggregate_s = opened.aggregate_s + time.perf_counter() - start
        closed = ClosedRound(
            round=number,
            counted=opened.gathered.count,
            carried=opened.carried,
            expected=len(opened.updates),
            num_examples=opened.gathered.num_examples,
            metrics=opened.gathered.metrics(),
            server_metrics=self._evaluation.on_server(number, arrays),
            seconds=self._clock.monotonic() - opened.started,
            aggregate_s=aggregate_s,
            bytes_down=sum(update.bytes_down for update in opened.updates),
            bytes_up=sum(update.bytes_up for update in opened.updates),
        )
        self._record.round_closed(closed, Commit(number, arrays, self._strategy.state()), self._strategy.name)
        self._arrays, self._last_round = arrays, number
        log(INFO, "%s", progress_line(closed, self._config.num_rounds))
        return closed

    def _scored_by_sites(self, number: int) -> Metrics:
        """Let sites score the model of a round that is committed; nothing of a run depends on whether they do."""
        nodes = self._evaluation.asked_after(number, self._present().available(), self._names.get)
        if not nodes:
            return {}
        asked = Asked(number, digest(self._arrays))
        opened = OpenRound(EVALUATE, asked, self._arrays, read_score, MeanMetrics(), self._around, self._clock.monotonic())
        patience_s = self._config.client_eval_timeout_s
        opened.send(self._evaluation.messages(number, self._arrays, nodes, MESSAGE_TTL_S + patience_s))
        opened.collect(len(nodes), self._limit.deadline(opened.started + patience_s))
        self._late.add(opened.close(), opened.surplus, self._arrays)
        scores = opened.gathered.metrics()
        self._record.scored(number, len(nodes), opened.gathered.count, scores)
        self._record.keep_scored(self._config, number, self._arrays)
        return scores

    def _is_the_runs_end(self, error: BaseException) -> bool:
        own = isinstance(error, Exception) and not is_of_the_way(error)
        return own or self._control_file.read().want == "stop"

    def _keep_final(self) -> None:
        if self._last_round:
            self._record.keep_final(self._last_round, self._arrays)

    def _keep_models(self) -> None:
        self._record.keep_wanted(self._config, self._last_round, self._arrays)

    def _updated(self, update: Update) -> None:
        if "node_name" in update.facts:
            self._names[update.node_id] = str(update.facts["node_name"])
        if update.cause and update.round > self._last_round:
            self._troubles[update.node_id] = update
        self._record.updated(update)
        if update.status != COUNTED and update.cause:
            log(INFO, "round %d: %s: %s", update.round, update.status, update.cause.sentence())

    def _name_of(self, node_id: int) -> str:
        return self._names.get(node_id, str(node_id))

    def _control(self) -> Control:
        control = self._control_file.read()
        if control.want == "stop":
            raise StopAsked
        self._limit.check()
        self._late.forget(control)
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

    def _present(self) -> Presence:
        lost = self._control().lost_nodes
        self._late.take_in(self._arrays)
        online = list(self._grid.get_nodes())
        self._names |= {node.node_id: node.name for node in online if node.name and node.node_id not in self._names}
        return Presence([node.node_id for node in online], self._late.owing(), lost)


def progress_line(closed: ClosedRound, num_rounds: int) -> str:
    """Say a round in one line."""
    scores = closed.server_metrics or {
        name.removeprefix("eval_"): value for name, value in closed.metrics.items() if name.startswith("eval_")
    }
    told = "".join(f", {name} {scores[name]:.4f}" for name in ("accuracy", "loss") if name in scores)
    carried = f" ({closed.carried} carried)" if closed.carried else ""
    return (
        f"round {closed.round}/{num_rounds}: {closed.counted}/{closed.expected} updates{carried}{told}, {closed.seconds:.1f} s, "
        f"{closed.bytes_down} bytes down, {closed.bytes_up} bytes up"
    )


def _says_least(update: Update) -> int:
    """Order causes: what a node said itself comes before what was only seen from outside."""
    cause: Cause | None = update.cause
    return (update.status == LOST) * 2 + (cause is None or cause.traceback is None)
