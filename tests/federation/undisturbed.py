"""Compare a run that was disturbed with one of the same seed that was not."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import load_file

from tests.federation.stack import Stack

SHARE_OF_LARGEST_WEIGHT = 1e-5


def assert_same_training(stack: Stack, run_id: str, undisturbed: str) -> None:
    """Round by round the same number of examples, and in the end the same model."""

    def examples(run: str) -> list[tuple[int, int, int]]:
        rounds = stack.admin.items(f"/runs/{run}/rounds")
        return [(row["round"], row["counted"], row["num_examples"]) for row in rounds]

    disturbed, quiet = examples(run_id), examples(undisturbed)
    assert disturbed == quiet, f"{disturbed} is not {quiet}"
    mine, other = (load_file(stack.run_folder(run) / "models" / "final.safetensors") for run in (run_id, undisturbed))
    assert mine.keys() == other.keys()
    largest = max(float(np.abs(values).max()) for values in other.values())
    assert largest > 0
    for name, values in other.items():
        assert float(np.abs(mine[name] - values).max()) <= SHARE_OF_LARGEST_WEIGHT * largest, name
