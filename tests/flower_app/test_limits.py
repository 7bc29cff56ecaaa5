"""What is counted of the memory that held updates take, against what Flower takes."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
import weakref
from contextlib import nullcontext
from logging import WARNING
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flower_app.accumulate import Contribution, HeldUpdates
from flower_app.config import RunConfig
from flower_app.limits import UpdatesDoNotFit, bytes_of_aggregating, most_that_fit, see_that_updates_fit
from flower_app.rules import RULES, rule_of
from flower_app.selection import known_first
from flower_app.strategies import StrategyDriver
from flower_app.wire import digest
from flower_app.workloads.interface import Arrays
from flwr.app import Message

if TYPE_CHECKING:
    from tests.flower_app.conftest import Federation, MakeFederation

FORMS: dict[str, Arrays] = {
    "one array": {"w": np.zeros((500, 500), np.float32)},
    "two arrays": {"v": np.zeros(120_000, np.float32), "w": np.zeros(120_000, np.float32)},
    "eight arrays": {f"w{number}": np.zeros(32_000, np.float32) for number in range(8)},
    "one large of three, in double": {"a": np.zeros(2000), "w": np.zeros(120_000), "z": np.zeros(2000)},
    "with a counter": {"w": np.zeros(150_000, np.float32), "v": np.zeros(50_000, np.float32), "steps": np.zeros((), np.int64)},
    "half of it whole numbers": {"w": np.zeros(100_000, np.float32), "n": np.zeros(100_000, np.int32)},
}


@pytest.mark.parametrize("count", [3, 7])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("strategy", [name for name, rule in sorted(RULES.items()) if not rule.streams])
def test_what_is_counted_is_what_flower_takes(federation: Federation, strategy: str, form: str, count: int) -> None:
    model = FORMS[form]
    driver = StrategyDriver(RunConfig.parse({"strategy": strategy, "krum-select": 3, "lr": 0.05}))
    driver.messages(1, model, [101], federation.grid)
    drawn = np.random.default_rng(1)
    tracemalloc.start()
    held = HeldUpdates()
    for node in range(count):
        update = {name: drawn.integers(0, 9, values.shape).astype(values.dtype) for name, values in model.items()}
        held.add(Contribution(node, update, 10, {"train_loss": 0.5}, 10.0))
    del update
    tracemalloc.reset_peak()
    gc.disable()
    try:
        driver.aggregate(1, held, model)
        left, peak = tracemalloc.get_traced_memory()
    finally:
        gc.enable()
        tracemalloc.stop()
    counted = bytes_of_aggregating(driver.rule, model, count)
    assert 0.55 * counted < peak < 1.02 * counted
    assert left < 0.1 * counted


@pytest.mark.parametrize(("k_of_n", "fits"), [(0, False), (2, False), (3, True), (5, True), (9, True)])
def test_updates_that_come_late_and_are_carried_are_counted(k_of_n: int, fits: bool) -> None:
    config = RunConfig.parse({"late": "carry", "k-of-n": k_of_n, "server-memory-limit-mb": 2})
    model: Arrays = {"w": np.zeros(250_000, np.float32)}
    if fits:
        see_that_updates_fit(config, rule_of(config), model, 5)
        return
    late = 5 - k_of_n
    with pytest.raises(UpdatesDoNotFit, match=f"hold {late} late updates, {late} MB here, and 2 MB may be used: raise k-of-n"):
        see_that_updates_fit(config, rule_of(config), model, 5)


def test_where_no_limit_is_set_half_of_the_memory_of_the_container_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower_app.limits.memory_bytes", lambda: 4_000_000)
    config, model = RunConfig.parse({"late": "carry"}), {"w": np.zeros(250_000, np.float32)}
    see_that_updates_fit(config, rule_of(config), model, 2)
    with pytest.raises(UpdatesDoNotFit, match="3 MB here, and 2 MB may be used"):
        see_that_updates_fit(config, rule_of(config), model, 3)


@pytest.mark.parametrize(("limit_mb", "fits"), [(3, False), (4, True)])
def test_a_late_update_that_has_to_be_near_its_model_is_counted_with_it(limit_mb: int, fits: bool) -> None:
    config = RunConfig.parse({"late": "carry", "k-of-n": 3, "server-memory-limit-mb": limit_mb, "max-update-norm": 1.0})
    model: Arrays = {"w": np.zeros(250_000, np.float32)}
    assert most_that_fit(config, rule_of(config), model, 5) == (5 if fits else 4)
    with (
        nullcontext()
        if fits
        else pytest.raises(UpdatesDoNotFit, match="hold 2 late updates and the models that they started from")
    ):
        see_that_updates_fit(config, rule_of(config), model, 5)


@pytest.mark.parametrize(("late", "kept"), [("drop", 1), ("carry", 3)])
def test_a_late_update_keeps_the_model_that_it_started_from_only_where_it_may_count(
    make_federation: MakeFederation, monkeypatch: pytest.MonkeyPatch, late: str, kept: int
) -> None:
    federation = make_federation(late=late, max_update_norm=100.0, k_of_n=1, min_available=1, num_rounds=4, best_metric="")
    del federation.grid.nodes[103]
    models: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def kept_in_sight(arrays: Arrays) -> str:
        models.append(weakref.ref(arrays["weight"]))
        return digest(arrays)

    def one_more_is_silent(messages: list[Message]) -> None:
        gc.collect()
        alive.append(sum(model() is not None for model in models))
        federation.grid.add(200 + len(models), answer=lambda message, context: None)

    monkeypatch.setattr("flower_app.engine.digest", kept_in_sight)
    federation.grid.on_push = one_more_is_silent
    federation.run()
    assert alive[-1] == kept


def test_a_mean_that_drops_late_updates_holds_none() -> None:
    config = RunConfig.parse({"server-memory-limit-mb": 1})
    see_that_updates_fit(config, rule_of(config), {"w": np.zeros(10**6)}, 1000)


THREE_FIT = [{"strategy": "fedmedian", "server_memory_limit_mb": 10}, {"late": "carry", "server_memory_limit_mb": 3}]


def nodes_asked(federation: Federation) -> list[list[str]]:
    return [record["nodes"] for record in federation.journal("round.opened")]


@pytest.mark.parametrize("config", THREE_FIT)
def test_a_node_that_does_not_fit_is_left_out_and_told_of(
    make_federation: MakeFederation, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    told: list[tuple[int, str]] = []
    monkeypatch.setattr("flower_app.engine.log", lambda level, text, *parts: told.append((level, text % parts)))
    federation = make_federation(workload="toy_workload:Wide", num_rounds=5, **config)
    federation.clock.after(1.5, lambda: federation.grid.add(7))
    federation.clock.after(2.5, lambda: setattr(federation.grid.nodes[102], "online", False))
    federation.run_config["min-available"] = 2
    federation.run()
    assert federation.journal("run.closed")[0]["status"] == "completed"
    assert nodes_asked(federation) == [["101", "102", "103"]] * 3 + [["7", "101", "103"]] * 2
    (warning,) = [text for level, text in told if level == WARNING]  # once, not in each round
    assert warning.startswith(
        "round 3 asks 3 of 4 free nodes, as the updates of more do not fit into server-memory-limit-mb; left out: 7"
    )


@pytest.mark.parametrize("config", THREE_FIT)
def test_those_that_earlier_attempts_asked_come_first(make_federation: MakeFederation, config: dict[str, Any]) -> None:
    federation = make_federation(workload="toy_workload:Wide", num_rounds=2, **config)
    federation.clock.after(1.5, lambda: federation.want("stop"))
    federation.run(attempt=1)
    federation.want("run")
    federation.grid.add(7)
    federation.run(attempt=2)
    assert nodes_asked(federation) == [["101", "102", "103"]] * 3


def test_known_nodes_come_first_then_the_lowest_ids() -> None:
    assert known_first([1, 2, 3, 4, 5], [4, 9, 2], 4) == [1, 2, 3, 4]
    assert known_first([1, 2, 3, 4, 5], [4, 9, 2], 1) == [4]
    assert known_first([1, 2], [2], 5) == [1, 2]


@pytest.mark.parametrize(
    ("strategy", "config"),
    [
        *itertools.product(THREE_FIT, [{"min_available": 4}, {"min_available": 1, "min_updates": 4}]),
        (THREE_FIT[0], {"k_of_n": 4}),
    ],
)
def test_what_can_never_fit_is_refused_before_anybody_is_waited_for(
    make_federation: MakeFederation, strategy: dict[str, Any], config: dict[str, Any]
) -> None:
    federation = make_federation(workload="toy_workload:Wide", **strategy | config)
    began = federation.clock.seconds
    with pytest.raises(UpdatesDoNotFit):
        federation.run()
    assert federation.clock.seconds == began
    assert federation.journal("run.closed")[0]["cause"]["type"] == "UpdatesDoNotFit"
