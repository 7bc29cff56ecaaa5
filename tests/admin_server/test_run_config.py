"""Run config: every value checked against what the app declares, and the key named."""

from typing import Any

import pytest
from admin_server.errors import AppInvalid, RunConfigInvalid
from admin_server.run_config import Limits, Scalar, check, from_text

DECLARED: dict[str, Scalar] = {"num-rounds": 10, "lr": 0.1, "workload": "digits", "fast": False, "model.depth": 2}
LIMITS = {"workload": Limits(choices=("digits", "tabular")), "num-rounds": Limits(at_least=1), "lr": Limits(above=0, below=1)}


def test_good_values_come_back_flat_and_in_the_declared_type() -> None:
    given = {"num-rounds": 3, "lr": 1e-2, "workload": "tabular", "fast": True, "model": {"depth": 4}}
    assert check(DECLARED, LIMITS, given) == {
        "num-rounds": 3,
        "lr": 0.01,
        "workload": "tabular",
        "fast": True,
        "model.depth": 4,
    }


def test_an_integer_for_a_float_becomes_one() -> None:
    value = check(DECLARED, {}, {"lr": 1})["lr"]
    assert (type(value), value) == (float, 1.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rounds", 3),
        ("num-rounds", "three"),
        ("num-rounds", 2.5),
        ("num-rounds", True),
        ("num-rounds", None),
        ("num-rounds", [3]),
        ("num-rounds", 0),
        ("num-rounds", 2**63),
        ("lr", "0.1"),
        ("lr", float("inf")),
        ("lr", 0.0),
        ("lr", 1.0),
        ("fast", 1),
        ("workload", "unheard-of"),
        ("workload", 7),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_its_key(key: str, value: Any) -> None:
    with pytest.raises(RunConfigInvalid) as refused:
        check(DECLARED, LIMITS, {key: value})
    assert key in refused.value.detail
    assert refused.value.facts["key"] == key


@pytest.mark.parametrize(("workload", "fits"), [("digits", True), ("my.module:Work", True), ("unheard-of", False)])
def test_a_text_is_a_choice_or_matches_the_pattern(workload: str, fits: bool) -> None:
    limits = {"workload": Limits(choices=("digits",), pattern=r"[\w.]+:\w+")}
    if fits:
        assert check(DECLARED, limits, {"workload": workload}) == {"workload": workload}
    else:
        with pytest.raises(RunConfigInvalid, match="'digits' or match"):
            check(DECLARED, limits, {"workload": workload})


def test_limits_that_cannot_be_read_are_the_apps_fault() -> None:
    with pytest.raises(AppInvalid, match="lr"):
        Limits.of("lr", {"minimum": 0})


@pytest.mark.parametrize("told", [{"choices": 5}, {"pattern": "("}, {"at-least": "x"}, {"above": True}])
def test_a_limit_of_the_wrong_kind_is_the_apps_fault(told: dict[str, Any]) -> None:
    with pytest.raises(AppInvalid, match="lr"):
        Limits.of("lr", told)


def test_no_key_is_lost_in_nested_tables() -> None:
    with pytest.raises(RunConfigInvalid, match="twice"):
        check({"a.b": 1}, {}, {"a.b": 2, "a": {"b": 3}})
    with pytest.raises(RunConfigInvalid, match="nothing-in-it"):
        check({"a": 1}, {}, {"nothing-in-it": {}})


def test_an_unknown_key_names_those_that_are_known() -> None:
    with pytest.raises(RunConfigInvalid) as refused:
        check(DECLARED, {}, {"model": {"width": 2}})
    assert refused.value.facts == {"key": "model.width", "known": sorted(DECLARED)}


def test_text_is_read_as_the_command_line_reads_it() -> None:
    assert from_text("num-rounds=3 lr=0.1 workload=\"digits\" fast=true name='a b'") == {
        "num-rounds": 3,
        "lr": 0.1,
        "workload": "digits",
        "fast": True,
        "name": "a b",
    }


@pytest.mark.parametrize("text", ["", "num-rounds", "num-rounds=three", "lr=0.1 and more"])
def test_text_that_is_no_pairs_is_refused(text: str) -> None:
    with pytest.raises(RunConfigInvalid):
        from_text(text)
