"""Data that cannot be trained on fail the run before the first fit, with node and reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from flower_app.engine import RoundFailed
from flower_app.workloads.guards import DataUnfit, check_examples, check_labels
from flower_app.workloads.partition import Examples

if TYPE_CHECKING:
    from tests.flower_app.conftest import MakeFederation

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("fault", "partitioner", "sentence"),
    [
        ("empty", "local", "there is no example"),
        ("empty", "iid", "there is no example"),
        ("one class", "dirichlet", "all 90 examples have the label 1, and at least 2 classes are needed to tell them apart"),
        ("one class", "local", "all 90 examples have the label 1, and at least 2 classes are needed to tell them apart"),
        ("not finite", "local", "x has 4 values that are not finite; the first is nan, in example 3 at (1,)"),
        ("too large", "local", "x has 2 values that are not finite as float32; the first is inf, in example 3 at (1,)"),
        ("one of each", "iid", "labels need to be one whole number for each example, and have the shape (90, 2)"),
        ("one of each", "local", "labels need to be one whole number for each example, and have the shape (90, 2)"),
        ("a row is missing", "iid", "there are 89 examples and 90 labels"),
        ("negative", "iid", "label -1 of example 5 is negative"),
        ("shares", "iid", "labels need to be whole numbers, and are float64"),
        ("names", "local", "x needs to hold numbers, and holds <U32"),
        ("no output", "local", "label 2 needs 3 outputs, and the model has 2"),
        ("wide", "iid", "an example has the shape (4,) (float32), which the model does not take: its first weights, 0.weight, "
         "have the shape (2, 2); mat1 and mat2 shapes cannot be multiplied (1x4 and 2x2)"),
    ],
)  # fmt: skip
def test_unfit_data_fail_the_run_with_node_and_reason(
    make_federation: MakeFederation, fault: str, partitioner: str, sentence: str
) -> None:
    federation = make_federation(workload="unfit_clinic:Clinic", partitioner=partitioner, fault=fault, round_retries=0)
    with pytest.raises(RoundFailed):
        federation.run()
    causes = [update["cause"] for update in federation.journal("update")]
    assert {cause["type"] for cause in causes} == {"DataUnfit"}
    assert sorted(cause["message"] for cause in causes) == [f'node "site-{letter}": {sentence}' for letter in "abc"]
    (closed,) = federation.journal("run.closed")
    assert sentence in closed["cause"]["message"]


def test_what_is_wrong_with_one_sites_part_is_told_of_that_site_alone(make_federation: MakeFederation) -> None:
    federation = make_federation(
        workload="unfit_clinic:Clinic", partitioner="natural", fault="one class in a ward", num_rounds=1, eval_share=0.0
    )
    federation.run()
    (failed,) = (update for update in federation.journal("update") if update["status"] != "counted")
    told = "examples have the label 0, and at least 2 classes are needed to tell them apart"
    assert failed["cause"]["message"].startswith(f'node "{failed["cause"]["node_name"]}": all ')
    assert failed["cause"]["message"].endswith(told)


def test_an_example_has_the_number_that_it_has_in_the_data(make_federation: MakeFederation) -> None:
    federation = make_federation(workload="unfit_clinic:Clinic", partitioner="natural", fault="not finite", num_rounds=1)
    federation.run()
    causes = [update["cause"]["message"] for update in federation.journal("update") if update["status"] != "counted"]
    assert causes == ['node "site-c": x has 2 values that are not finite; the first is inf, in example 40 at (1,)']


def test_a_class_that_a_partitioner_did_not_deal_to_a_site_is_no_fault(make_federation: MakeFederation) -> None:
    federation = make_federation(workload="unfit_clinic:Clinic", partitioner="pathological", classes_per_site=1, num_rounds=1)
    federation.run()
    assert [update["status"] for update in federation.journal("update")] == ["counted"] * 3


def test_with_local_data_a_site_trains_on_all_that_it_has_and_the_server_scores_nothing(make_federation: MakeFederation) -> None:
    federation = make_federation(workload="unfit_clinic:Clinic", partitioner="local", num_rounds=1, eval_share=0.1)
    federation.run()
    assert [update["num_examples"] for update in federation.journal("update")] == [81] * 3
    (closed,) = federation.journal("round.closed")
    assert closed["server_metrics"] == {}
    assert closed["metrics"].keys() >= {"eval_accuracy", "train_accuracy"}


def test_a_plug_in_can_ask_the_same_of_arrays_and_of_labels_alone() -> None:
    check_examples(Examples(np.zeros((2, 3)), np.array([0, 1])), "site-a")
    check_labels(np.zeros(5, np.int64), "site-a", count=5, classes=1)
    with pytest.raises(DataUnfit, match=r'^node "site-a": there are 4 examples and 5 labels$'):
        check_labels(np.zeros(5, np.int64), "site-a", count=4)
    with pytest.raises(DataUnfit, match="there are 2 classes, and at least 3 classes are needed"):
        check_labels(np.array([0, 1, 1]), "site-a", classes=3)
    largest = np.full((2, 3), np.finfo(np.float64).max)
    check_examples(Examples(largest, np.array([0, 1])), "site-a")


def test_the_page_quotes_what_is_told() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8").partition("\n## Guards\n")[2]
    quoted = [line.removeprefix('node "site-a": ').strip("… ") for line in re.findall(r"\| `([^|]*)` \|\n", page)]
    (told,) = test_unfit_data_fail_the_run_with_node_and_reason.pytestmark  # type: ignore[attr-defined]
    sentences = [sentence for _, _, sentence in told.args[1]]
    assert len(quoted) == 9
    assert [line for line in quoted if not any(sentence.startswith(line.rstrip("; ")) for sentence in sentences)] == []


def test_a_label_that_int64_does_not_hold_is_told() -> None:
    with pytest.raises(DataUnfit, match=r'node "a": label 18446744073709551615 of example 1 is more than int64 holds'):
        check_labels(np.array([0, 2**64 - 1, 1], np.uint64), "a")
    check_labels(np.array([0, 2**63 - 1], np.uint64), "a")
