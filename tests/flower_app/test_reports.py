"""What people read, and the chart as a picture."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flower_app.chart import ChartPainter, painted
from flower_app.run_directory import folder_name

if TYPE_CHECKING:
    from pathlib import Path

    from tests.flower_app.conftest import Federation, MakeFederation


ENTRIES = [
    {"round": number, "server_accuracy": 1 - 0.5 / number, "server_loss": 1 / number, "client_accuracy": 0.5, "client_loss": 2.0}
    for number in range(1, 11)
]


def picture(png: bytes) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(BytesIO(png), format="png"))


def test_the_chart_shows_both_lines_in_both_halves() -> None:
    pixels = picture(painted("digits · fedavg · run 7", ENTRIES))
    height, width = pixels.shape[:2]
    assert (width, height) == (1300, 520)
    for colour in ((0x2F, 0x6F, 0x4F), (0xE2, 0xB0, 0x7E)):
        near = np.abs(pixels[:, :, :3] * 255 - colour).max(axis=2) < 12
        assert near[:, : width // 2].sum() > 300
        assert near[:, width // 2 :].sum() > 300


def test_a_chart_without_server_evaluation_or_with_one_round_is_drawn() -> None:
    bare = {"round": 1, "server_accuracy": None, "server_loss": None, "client_accuracy": None, "client_loss": None}
    assert picture(painted("one", [bare])).shape == (520, 1300, 4)
    assert picture(painted("one", ENTRIES[:1])).shape == (520, 1300, 4)


def test_a_run_leaves_the_chart_of_its_last_round(federation: Federation, real_chart: None) -> None:
    federation.run()
    assert picture((federation.root / "chart.png").read_bytes()).shape == (520, 1300, 4)


def test_rounds_that_follow_each_other_closely_are_one_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    def note(_title: str, history: Any) -> bytes:
        drawn.append(history)
        return b""

    monkeypatch.setattr("flower_app.chart.painted", note)
    painter = ChartPainter(tmp_path / "chart.png")
    for number in (1, 2):
        painter.draw("two", ENTRIES[:number])
    painter.close()
    assert drawn == [ENTRIES[:2]]


def test_a_chart_that_cannot_be_drawn_is_told_once_and_fails_nothing(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(title: str, history: object) -> bytes:
        raise ImportError("No module named 'matplotlib'")

    monkeypatch.setattr("flower_app.chart.painted", fail)
    federation.run()
    assert federation.journal()[-1]["status"] == "completed"
    assert capsys.readouterr().out.count("chart.png was not drawn: ImportError: No module named 'matplotlib'") == 1


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("site-a", "site-a-654321"),
        ("../../etc", "_.._etc-654321"),
        ("..", "node-654321"),
        ("Haus 3/ß", "Haus_3__-654321"),
        ("a" * 300, "a" * 200 + "-654321"),
        ("", "node-654321"),
        (None, "node-654321"),
    ],
)
def test_a_node_has_one_plain_folder(name: str | None, folder: str) -> None:
    assert folder_name(name, "6922184707310654321") == folder


def test_two_nodes_of_one_name_have_two_folders(federation: Federation) -> None:
    federation.grid.nodes[102].config["node-name"] = "site-a"
    federation.run()
    folders = sorted(path.name for path in (federation.root / "clients").iterdir())
    assert folders == ["site-a-101", "site-a-102", "site-c-103"]
    for folder in folders:
        assert len(list((federation.root / "clients" / folder).iterdir())) == 3


def test_history_falls_back_to_the_sites_where_the_server_does_not_evaluate(make_federation: MakeFederation) -> None:
    federation = make_federation(server_eval_every=2)
    federation.run()
    first, second, _ = federation.read("history.json")
    assert first["server_accuracy"] is None
    assert first["accuracy"] == first["client_accuracy"]
    assert second["accuracy"] == second["server_accuracy"]
