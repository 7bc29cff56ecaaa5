"""`bench api` on a small database: it measures a real admin server, and every figure is there."""

import asyncio
from pathlib import Path

import pytest

from benchmarks import api
from benchmarks.api_cases import memory
from benchmarks.api_cases.filling import Size
from benchmarks.measure.admin import AdminServer


@pytest.mark.timeout(240)
def test_the_figures_of_a_small_database_are_those_of_a_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.api_cases.reads.CALLS", 3)
    monkeypatch.setattr("benchmarks.api_cases.streams.LINES", 3)
    with AdminServer(tmp_path / "home") as server:
        size = Size(nodes=3, runs=2, rounds=2, nodes_a_round=2, batches_a_run=1)
        figures, run_id = asyncio.run(api.embedded(server, size))
        shown = server.ask("GET", f"/runs/{run_id}")
        assert server.rss_bytes() > 0
    assert shown["status"] == "completed"
    assert shown["rows"] == {"rounds": 2, "updates": 4, "metrics": size.metrics // 2, "log_lines": 1000, "events": 9}
    assert list(figures.pages_p95_ms) == ["GET /runs", "GET /runs/{id}", "GET /nodes", "GET /runs/{id}/logs"]
    assert min(*figures.pages_p95_ms.values(), figures.intake_lines_a_s, figures.slowest_follower_ms) > 0


def test_growth_is_the_last_fifth_over_the_second() -> None:
    assert memory.growth_mb([*range(10), 5, 5]) == pytest.approx(5 - 2.5)
