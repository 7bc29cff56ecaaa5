"""A run starts from the model that another has left, and its record says from which."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import load_file

from tests.federation.rows import assert_rows_equal_journal
from tests.federation.stack import Stack


def test_a_run_starts_from_the_final_model_of_another(stack: Stack) -> None:
    first = stack.start_run("trouble", num_rounds=1, min_available=2)
    assert stack.wait_end(first)["status"] == "completed"
    (final,) = [each for each in stack.admin.items(f"/runs/{first}/artifacts") if each["role"] == "final"]
    parent = stack.admin.post("/models", {"run_id": first, "why": "to go on from"}, expect=201)
    body = {"app": "trouble", "run_config": {"num-rounds": 1, "min-available": 2}, "initial_model": "latest"}
    second = str(stack.admin.post("/runs/start", body)["id"])
    run = stack.wait_end(second)
    assert run["status"] == "completed", run
    assert run["opened"]["initial_model"] == run["config"]["initial-model"] == final["sha256"] == parent["sha256"]
    child = stack.admin.post("/models", {"run_id": second, "why": "went on"}, expect=201)
    assert child["parent_version"] == parent["version"]
    assert_rows_equal_journal(stack, second)
    before, after = (load_file(stack.run_folder(each) / "models" / "final.safetensors")["w"] for each in (first, second))
    # A round of this workload halves the model and adds what the seed of the round draws, the same in both runs.
    np.testing.assert_allclose(after, 0.5 * before + before, rtol=1e-5)


def test_a_model_that_is_no_artifact_is_refused_before_anything_starts(stack: Stack) -> None:
    before = len(stack.admin.items("/runs"))
    for strange in ("no-uuid", "00000000-0000-0000-0000-000000000000"):
        answer = stack.admin.request("POST", "/runs/start", json={"app": "trouble", "initial_model": strange})
        assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (422, "initial-model-unfit")
        assert strange in answer.json()["detail"]
    assert len(stack.admin.items("/runs")) == before
