"""scikit-learn's tables, read and cached without scikit-learn's code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flower_app.workloads import sklearn_table
from flower_app.workloads.data_dirs import DataMissing
from flower_app.workloads.sklearn_table import load_table


def test_a_table_is_cached_where_the_node_allows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    table = load_table("digits.csv.gz", np.uint8, cache)
    assert table.shape == (1797, 65)
    assert table.dtype == np.uint8
    assert [path.name for path in cache.iterdir()] == ["digits.npz"]
    monkeypatch.setattr(sklearn_table, "find_spec", lambda name: None)
    load_table.cache_clear()
    np.testing.assert_array_equal(load_table("digits.csv.gz", np.uint8, cache), table)
    with pytest.raises(DataMissing, match=r"digits\.csv\.gz comes with scikit-learn, which is not installed here: pip install"):
        load_table("digits.csv.gz", np.uint8, tmp_path / "other")


def test_nobody_can_change_the_table_that_others_read() -> None:
    with pytest.raises(ValueError, match="read-only"):
        load_table("breast_cancer.csv", np.float64, None, head_lines=1)[0, 0] = 1


@pytest.mark.parametrize(("name", "count"), [("digits", 1797), ("tabular", 569)])
def test_making_a_workload_does_not_import_torch_and_reading_its_data_not_sklearn(name: str, count: int) -> None:
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from flower_app.config import RunConfig; from flower_app.workloads import make_workload\n"
        f"examples = make_workload(RunConfig.parse({{'workload': '{name}'}})).load(None)\n"
        "print({'torch', 'sklearn', 'scipy'} & set(sys.modules), examples.x.dtype, examples.labels.dtype, len(examples))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == f"set() float32 int64 {count}"
