"""The engine against a model of it: whatever nodes do and whenever it is killed, its journal and its model add up.

The model knows nothing of time. It reads which updates the journal counts in which round, trains them anew with the toy
workload, and says what the final model has to be; a lost, repeated or twice counted update would show in the weights.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_app.accumulate import staleness_discount
from flower_app.client_app import app as client_app
from flower_app.config import RunConfig
from flower_app.engine import RoundFailed
from flower_app.gate import TooFewNodes
from flower_app.workloads.interface import Arrays, NodeEnv, derived_seed
from flwr.app import Context, Error, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from tests.flower_app.conftest import Federation
from tests.flower_app.toy_workload import Toy

NODES = (101, 102, 103)
EXAMPLES = {101: 10, 102: 20, 103: 30}
ROUNDS = 4
ALPHA = 0.7
SOON = timedelta(seconds=0.6)
KINDS = ["answers"] * 6 + ["fails", "is silent", "answers twice", "answers another round", "leaves", "dies", "dies unseen"]

fates = st.lists(st.tuples(st.sampled_from(KINDS), st.floats(0.05, 7.0)), min_size=1, max_size=15)
kills = st.lists(st.integers(1, 60), max_size=3)
pauses = st.lists(st.tuples(st.floats(0.1, 30.0), st.floats(0.1, 90.0)), max_size=2)


class Killed(BaseException):
    """What kill -9 is to a process, as far as it can be had in one."""


class Random:
    """What nodes do with their messages, in the order in which these are sent; and when the run is paused, for how long."""

    def __init__(self, federation: Federation, drawn: list[tuple[str, float]], held: list[tuple[float, float]]) -> None:
        self._fates = itertools.cycle(drawn)
        self._federation = federation
        self.wanted = [(federation.clock.now(), "run")]
        self.died: dict[str, datetime] = {}
        self._dead: dict[str, str] = {}
        self._deaths: dict[str, dict[str, str]] = {}
        for at_s, for_s in held:
            federation.clock.after(at_s, lambda: self._tell(want="pause"))
            federation.clock.after(at_s + for_s, lambda: self._tell(want="run"))
        self._again: dict[str, Message] = {}
        for node in federation.grid.nodes.values():
            node.answer = self._answer
        self._pull = federation.grid.pull_messages
        federation.grid.__dict__["pull_messages"] = self._pull_twice

    def _answer(self, message: Message, context: Context) -> Message | None:
        node = self._federation.grid.nodes[context.node_id]
        kind, node.delay_s = next(self._fates)
        if kind == "leaves":
            node.online = False
            self._federation.clock.after(node.delay_s * 3, lambda: setattr(node, "online", True))
        if kind.startswith("dies"):
            self._federation.clock.after(node.delay_s, lambda: self._die(message, f"n{context.node_id}", kind))
            return None
        if kind in ("leaves", "is silent"):
            self._federation.clock.after(node.delay_s, lambda: self._federation.grid.lose(message.object_id))
            return None
        if kind == "fails":
            return Message(Error(8, "died"), reply_to=message)
        reply: Message = client_app(message, context)
        if kind == "answers another round":
            reply.content.config_records["answers"]["round"] = int(message.metadata.group_id) - 1
        if kind == "answers twice":
            self._again[message.object_id] = copy.deepcopy(reply)
        return reply

    def _die(self, message: Message, node: str, kind: str) -> None:
        """Its message is never answered; unseen: it is back before anybody has looked."""
        self.died[message.object_id] = self._federation.clock.now()
        self._deaths[node.removeprefix("n")] = {"at": str(self._federation.clock.now()), "reason": kind}
        if kind == "dies":
            self._dead[node] = kind
            self._federation.clock.after(5.0, lambda: self._come_back(node))
        self._tell()

    def _come_back(self, node: str) -> None:
        self._dead.pop(node, None)
        self._tell()

    def _tell(self, want: str | None = None) -> None:
        if want:
            self.wanted.append((self._federation.clock.now(), want))
        self._federation.want(self.wanted[-1][1], deaths=self._deaths, **self._dead)

    def _pull_twice(self, message_ids: Any) -> list[Message]:
        found = list(self._pull(message_ids))
        ids = [reply.metadata.reply_to_message_id for reply in found]
        return found + [self._again[message_id] for message_id in ids if message_id in self._again]


@contextmanager
def killed_at(federation: Federation, call: int | None) -> Iterator[None]:
    """Let the process die at its n-th word with the SuperLink or line of its journal."""
    count = itertools.count(1)

    def counting(function: Any) -> Any:
        def asked(*args: Any, **named: Any) -> Any:
            if next(count) == call:
                raise Killed
            return function(*args, **named)

        return asked

    with pytest.MonkeyPatch.context() as patch:
        grid = federation.grid
        for name in ("push_messages", "get_nodes"):
            patch.setitem(grid.__dict__, name, counting(getattr(grid, name)))
        for name in ("append",):
            from flower_app.journal import Journal

            patch.setattr(Journal, name, counting(getattr(Journal, name)))
        yield


def model_of(federation: Federation) -> Arrays:
    """Train what the journal counts, and give the model after the last closed round."""
    config = RunConfig.parse(federation.run_config)
    toy = Toy(config)
    models = [toy.initial_arrays()]
    taken: dict[int, dict[int, int]] = {}
    for record in federation.journal():
        if record["kind"] == "round.opened":
            taken[record["round"]] = {}  # what a try before this one counted does not count
        elif record["kind"] == "update" and record["status"] == "counted":
            into = record["counted_in_round"]
            assert int(record["node_id"]) not in taken[into], "a node counts once in a round"
            taken[into][int(record["node_id"])] = record["round"]
        elif record["kind"] == "round.closed":
            number = record["round"]
            assert number == len(models), "rounds close once, in order"
            trained, weights = [], []
            for node, round_of in taken[number].items():
                part = NODES.index(node)
                env = NodeEnv(f"{node}", part, 3, round_of, derived_seed(config.seed, part, round_of), 1, "cpu", None)
                trained.append(toy.train(models[round_of - 1], {}, env).arrays["weight"])
                weights.append(EXAMPLES[node] * staleness_discount(number - round_of, config.staleness_alpha))
            made = np.median(trained, axis=0) if config.strategy == "fedmedian" else np.average(trained, axis=0, weights=weights)
            assert record["counted"] == len(trained)
            assert record["carried"] == sum(round_of < number for round_of in taken[number].values())
            assert record["num_examples"] == sum(EXAMPLES[node] for node in taken[number])
            models.append({"weight": made.astype(np.float32), "steps": np.array(number)})
    return models[-1]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    drawn=fates,
    deaths=kills,
    held=pauses,
    k=st.integers(0, 3),
    strategy=st.sampled_from([("fedavg", "drop"), ("fedavg", "carry"), ("fedmedian", "drop")]),
    timeout_s=st.sampled_from([1.5, 4.0, 20.0]),
    least=st.sampled_from([1, 2]),
)
def test_whatever_happens_each_round_is_what_its_journal_says(
    drawn: list[tuple[str, float]],
    deaths: list[int],
    held: list[tuple[float, float]],
    k: int,
    strategy: tuple[str, str],
    timeout_s: float,
    least: int,
) -> None:
    with tempfile.TemporaryDirectory() as root:
        least = min(least, k or least)
        policies: dict[str, Any] = {"k_of_n": k, "min_updates": least, "round_retries": 1, "round_timeout_s": timeout_s}
        policies |= {"strategy": strategy[0], "late": strategy[1], "staleness_alpha": ALPHA}
        federation = Federation(
            Path(root), num_rounds=ROUNDS, min_available=1, min_available_timeout_s=60.0, server_eval_every=0, **policies
        )
        drawn_by = Random(federation, drawn, held)
        ends = attempts(federation, deaths)
        closed = federation.journal("round.closed")
        expected = model_of(federation)
        if ends[-1] is None:
            assert [each["round"] for each in closed] == list(range(1, ROUNDS + 1))
            assert federation.journal()[-1]["status"] == "completed"
        else:
            assert federation.journal()[-1]["status"] == "failed"
            assert federation.journal()[-1]["cause"] is not None
        for each in closed:
            assert each["seconds"] <= timeout_s + 0.6
            assert each["counted"] >= least
        if closed:
            final = load_file(federation.root / "models/final.safetensors")
            np.testing.assert_allclose(final["weight"], expected["weight"], rtol=1e-5, atol=1e-6)
            (line,) = [
                each for each in federation.journal("artifact") if each["role"] == "final" and each["round"] == len(closed)
            ]
            assert line["parents"] == [closed[-1]["commit"]["sha256"]]
        for each in federation.journal("round.opened"):
            told_at, want = [told for told in drawn_by.wanted if told[0] <= at(each)][-1]
            assert want == "run" or at(each) - told_at <= SOON
        for each in federation.journal("update"):
            if died_at := drawn_by.died.get(each["message_id"]):
                assert each["status"] == "lost" or (each["status"] == "late" and at(each) - died_at <= SOON)
        seqs = [each["seq"] for each in federation.journal()]
        assert seqs == list(range(1, len(seqs) + 1))


def at(record: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(record["at"])


def attempts(federation: Federation, deaths: list[int]) -> list[BaseException | None]:
    """Run attempt after attempt until one ends by itself; give how each ended."""
    ends: list[BaseException | None] = []
    for attempt, call in enumerate([*deaths, None], 1):
        try:
            with killed_at(federation, call):
                federation.run(attempt)
            ends.append(None)
        except Killed as killed:
            ends.append(killed)
            continue
        except (RoundFailed, TooFewNodes) as failed:
            ends.append(failed)
        break
    return ends
