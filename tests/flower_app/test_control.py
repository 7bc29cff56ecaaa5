"""control.json: stop, pause and lost nodes, as the engine obeys them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from flower_app.control import Control, ControlFile, Death
from flwr.app import Message

if TYPE_CHECKING:
    from tests.flower_app.conftest import Federation, MakeFederation


def test_stop_ends_the_run_within_a_poll_and_the_last_model_stays(federation: Federation) -> None:
    federation.clock.after(1.5, lambda: federation.want("stop"))  # in the middle of round 2
    federation.run()
    *_, artifact, closed = federation.journal()
    assert (closed["kind"], closed["status"], closed["last_round"], closed["cause"]) == ("run.closed", "stopped", 1, None)
    assert (artifact["kind"], artifact["role"], artifact["round"]) == ("artifact", "final", 1)
    assert closed["at"] <= "2026-01-01T00:16:41.750Z"  # 0.25 s later
    assert len(federation.journal("round.closed")) == 1


def test_what_a_stop_makes_of_the_replies_is_no_failed_round(
    make_federation: MakeFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop has the ClientApps killed at once; the engine may have looked at control.json just before it."""
    federation = make_federation(round_retries=0)
    pull = federation.grid.pull_messages

    def pulled(message_ids: Iterable[str]) -> Iterable[Message]:
        if len(federation.journal("round.closed")) == 1:
            federation.want("stop")
            for message_id in message_ids:
                federation.grid.lose(message_id)
        return pull(message_ids)

    monkeypatch.setattr(federation.grid, "pull_messages", pulled)
    federation.run()
    *_, artifact, closed = federation.journal()
    assert (closed["status"], closed["last_round"], closed["cause"]) == ("stopped", 1, None)
    assert (artifact["kind"], artifact["role"], artifact["round"]) == ("artifact", "final", 1)
    assert {update["round"] for update in federation.journal("update")} == {1}


def test_a_stopped_run_lingers_a_moment_so_that_flower_can_say_stopped_too(federation: Federation) -> None:
    federation.want("stop")
    federation.run()
    assert federation.journal()[-1]["status"] == "stopped"
    assert federation.grid.offers[-1] - federation.grid.offers[0] == pytest.approx(5, abs=0.5)


def test_a_stop_before_the_first_round_leaves_no_model(federation: Federation) -> None:
    federation.want("stop")
    federation.run()
    assert [record["kind"] for record in federation.journal()] == ["run.opened", "run.closed"]
    assert not (federation.root / "models").exists()


def test_stop_while_waiting_for_nodes_ends_the_run(make_federation: MakeFederation) -> None:
    federation = make_federation(min_available=4)
    federation.clock.after(3.0, lambda: federation.want("stop"))
    federation.run()
    assert federation.journal()[-1]["status"] == "stopped"


def test_pause_holds_before_the_next_round_until_run_is_wanted(federation: Federation) -> None:
    federation.clock.after(0.5, lambda: federation.want("pause"))
    federation.clock.after(100.0, lambda: federation.want("run"))
    federation.run()
    kinds = [record["kind"] for record in federation.journal()]
    held = kinds.index("run.paused")
    assert kinds[held - 2 : held + 3] == ["round.closed", "artifact", "run.paused", "run.resumed", "round.opened"]
    assert [record["after_round"] for record in federation.journal() if record["kind"] in ("run.paused", "run.resumed")] == [1, 1]
    assert federation.journal()[-1]["status"] == "completed"
    assert federation.clock.seconds >= 1100


def test_pause_while_waiting_for_nodes_holds_too_and_does_not_use_their_time_up(make_federation: MakeFederation) -> None:
    federation = make_federation(min_available_timeout_s=30.0, num_rounds=1)
    federation.grid.nodes[103].online = False
    federation.clock.after(10.0, lambda: federation.want("pause"))
    federation.clock.after(50.0, lambda: setattr(federation.grid.nodes[103], "online", True))
    federation.clock.after(100.0, lambda: federation.want("run"))
    federation.run()
    kinds = ["run.opened", "round.waiting", "run.paused", "run.resumed", "round.opened"]
    assert [record["kind"] for record in federation.journal()][:5] == kinds
    assert federation.journal()[-1]["status"] == "completed"


def test_a_paused_run_can_be_stopped(federation: Federation) -> None:
    federation.want("pause")
    federation.clock.after(10.0, lambda: federation.want("stop"))
    federation.run()
    assert [record["kind"] for record in federation.journal()] == ["run.opened", "run.paused", "run.closed"]
    assert federation.journal()[-1]["status"] == "stopped"


def test_a_node_known_dead_is_lost_in_the_round_and_not_asked_again_until_it_is_back(make_federation: MakeFederation) -> None:
    federation = make_federation(num_rounds=4, min_available=2)
    federation.grid.nodes[102].delay_s = 1e9
    federation.clock.after(1.2, lambda: federation.want("run", n102="its SuperNode was killed by signal 9"))

    def back() -> None:
        federation.grid.nodes[102].delay_s = 1.0
        federation.want("run")

    federation.clock.after(3.0, back)
    federation.run()
    lost = [update for update in federation.journal("update") if update["status"] == "lost"]
    assert [(update["round"], update["node_id"]) for update in lost] == [(1, "102")]
    assert lost[0]["cause"]["type"] == "NodeLost"
    assert lost[0]["cause"]["message"] == "its SuperNode was killed by signal 9"
    asked = [record["nodes"] for record in federation.journal("round.opened")]
    assert asked == [["101", "102", "103"], ["101", "103"], ["101", "103"], ["101", "102", "103"]]


def test_a_node_that_died_and_came_back_while_nobody_looked_is_lost_and_asked_again(make_federation: MakeFederation) -> None:
    federation = make_federation(num_rounds=3, min_available=2)
    before = {"at": "2026-01-01T00:16:39+00:00", "reason": "killed a second before the run"}
    death = {"at": "2026-01-01T00:16:42+00:00", "reason": "killed"}
    federation.grid.nodes[102].delay_s = 1e9

    def died_and_is_back() -> None:
        federation.grid.nodes[102].delay_s = 1.0
        federation.want("run", deaths={"102": death, "103": before})

    federation.clock.after(2.0, died_and_is_back)
    federation.run()
    lost = [update for update in federation.journal("update") if update["status"] == "lost"]
    assert [(update["round"], update["node_id"]) for update in lost] == [(1, "102")]
    assert lost[0]["cause"]["message"] == "killed"
    assert [record["nodes"] for record in federation.journal("round.opened")] == [["101", "102", "103"]] * 3


def test_what_a_node_sent_before_it_died_counts(make_federation: MakeFederation) -> None:
    federation = make_federation(num_rounds=1)
    federation.clock.after(0.9, lambda: federation.want("run", n102="killed"))  # and at 1.0 its answer is at the SuperLink
    federation.grid.nodes[102].delay_s = 0.95
    federation.run()
    assert {update["node_id"]: update["status"] for update in federation.journal("update")}["102"] == "counted"


def test_a_late_node_that_died_owes_nothing_however_late_the_engine_looks(make_federation: MakeFederation) -> None:
    federation = make_federation(num_rounds=3, min_available=2, k_of_n=2, late="carry")
    federation.grid.nodes[102].delay_s = 1e9
    federation.clock.after(1.5, lambda: setattr(federation.grid.nodes[102], "delay_s", 0.5))
    federation.clock.after(
        1.5, lambda: federation.want("run", deaths={"102": {"at": "2026-01-01T00:16:41.5+00:00", "reason": "killed"}})
    )
    federation.run()
    asked = [record["nodes"] for record in federation.journal("round.opened")]
    assert asked == [["101", "102", "103"], ["101", "103"], ["101", "102", "103"]]


def test_an_absent_file_wants_run(tmp_path: Path) -> None:
    assert ControlFile(tmp_path / "control.json").read() == Control("run", {})
    assert ControlFile(None).read() == Control("run", {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"want": "dance"}',
        '{"want": "stop", "lost_nodes": {"x": "y"}}',
        '{"want": "stop", "deaths": {"6": "now"}}',
        '{"deaths": {"6": {"at": "2026-01-01", "reason": ""}}}',
    ],
)
def test_a_senseless_file_changes_nothing_and_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path = tmp_path / "control.json"
    wanted = Control("pause", {5: "gone"}, {6: Death(datetime(2026, 1, 1, 0, 16, 39, tzinfo=UTC), "killed")})
    control = ControlFile(path)
    path.write_text(
        json.dumps(
            {
                "want": "pause",
                "lost_nodes": {"5": "gone"},
                "deaths": {"6": {"at": "2026-01-01 00:16:39Z", "reason": "killed"}},
            }
        )
    )
    assert control.read() == wanted
    path.write_text(text)
    assert control.read() == control.read() == wanted
    assert capsys.readouterr().out.count("control.json cannot be read") == 1
