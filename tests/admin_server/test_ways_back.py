"""The ways back: control.json to the engine, wishes to the sites, who is known dead."""

import asyncio
import json
from pathlib import Path

from admin_server.control import ControlFile
from admin_server.feed import Feed
from admin_server.lost_nodes import HOLD_S, SUPERLINK, LostNodes
from admin_server.wanted import Wanted


def test_control_is_written_on_change_alone_and_its_seq_grows(tmp_path: Path) -> None:
    path = tmp_path / "control.json"
    control = ControlFile(path)
    control.ask("run")
    control.lose({})
    assert not path.exists(), "absent means run, so there is nothing to say"
    control.lose({"5": "offline"})
    control.ask("stop")
    control.ask("stop")
    assert json.loads(path.read_text()) == {"seq": 2, "want": "stop", "lost_nodes": {"5": "offline"}}


def test_another_server_goes_on_with_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "control.json"
    ControlFile(path).ask("pause")
    control = ControlFile(path)
    assert (control.want, control.seq) == ("pause", 1)
    control.ask("run")
    assert json.loads(path.read_text())["seq"] == 2


def test_a_stop_is_never_taken_back(tmp_path: Path) -> None:
    control = ControlFile(tmp_path / "control.json")
    control.ask("stop")
    control.ask("run")
    assert control.want == "stop"


def test_by_hand_a_pause_of_before_is_over_and_the_nodes_are_those_of_one_attempt(tmp_path: Path) -> None:
    path = tmp_path / "control.json"
    control = ControlFile(path)
    control.ask("pause")
    control.reopen({}, "same")
    assert json.loads(path.read_text()) == {"seq": 2, "want": "run", "lost_nodes": {}, "nodes": "same"}
    control.go_on({"5": "offline"}, by_hand=True)
    assert json.loads(path.read_text()) == {"seq": 3, "want": "run", "lost_nodes": {"5": "offline"}, "nodes": "same"}
    control.ask("pause")
    control.go_on({}, by_hand=False)
    assert json.loads(path.read_text()) == {"seq": 5, "want": "pause", "lost_nodes": {}}


def test_a_control_file_that_cannot_be_read_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "control.json"
    path.write_text('{"seq": "x"')
    ControlFile(path).ask("stop")
    assert json.loads(path.read_text())["want"] == "stop"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_dead_node_stays_lost_for_a_moment_after_it_has_come_back() -> None:
    clock = Clock()
    lost = LostNodes(clock)
    lost.dead("5", "killed")
    lost.alive("5")
    assert lost.reasons() == {"5": "killed"}, "an engine that aggregates would not have seen it"
    clock.now += HOLD_S
    assert lost.reasons() == {}


def test_a_node_that_dies_again_meanwhile_stays_lost() -> None:
    clock = Clock()
    lost = LostNodes(clock)
    lost.dead("5", "first")
    lost.alive("5")
    clock.now += HOLD_S / 2
    lost.dead("5", "second")
    clock.now += HOLD_S
    assert lost.reasons() == {"5": "second"}


def test_another_session_means_that_the_one_before_died_unseen() -> None:
    lost = LostNodes(Clock())
    lost.alive("5", "s1")
    lost.alive("5", "s1")
    assert lost.reasons() == {}
    lost.alive("5", "s2")
    assert lost.reasons() == {"5": "its SuperNode was started anew"}


def test_a_node_whose_death_was_seen_is_not_lost_again_by_its_next_session() -> None:
    """A report that it runs comes before the first heartbeat of its session, when it may have a message already."""
    clock = Clock()
    lost = LostNodes(clock)
    lost.alive("5", "s1")
    lost.dead("5", "its SuperNode is stopped")
    clock.now += HOLD_S
    lost.alive("5")
    assert lost.reasons() == {}
    lost.alive("5", "s2")
    assert lost.reasons() == {}


def test_the_superlink_does_not_revive_whom_its_own_site_calls_dead() -> None:
    """It has a killed SuperNode as online for 37 to 60 s."""
    clock = Clock()
    lost = LostNodes(clock)
    lost.dead("5", "killed by signal 9")
    lost.alive("5", said_by=SUPERLINK)
    clock.now += HOLD_S
    assert lost.reasons() == {"5": "killed by signal 9"}


async def test_a_wish_for_one_node_does_not_answer_another() -> None:
    board = Wanted(Feed())
    seq = board.seq("a", "1")
    board.cancel("2", "m1")
    assert (await board.wait("a", "1", seq, hold_s=0.05))["cancelled_messages"] == []
    told = await board.wait("b", "2", seq)
    assert told["cancelled_messages"] == ["m1"]
    assert told["seq"] == board.seq("b", "2") > seq


async def test_the_number_of_wishes_grows_over_restarts() -> None:
    before = Wanted(Feed())
    before.run_over("7")
    before.run_over("8")
    await asyncio.sleep(0.01)  # seq is a time in ms
    assert Wanted(Feed()).seq() >= before.seq()


async def test_a_server_that_ends_answers_who_waits() -> None:
    feed = Feed()
    board = Wanted(feed)
    waiting = asyncio.create_task(board.wait("a", None, board.seq()))
    await asyncio.sleep(0)
    feed.close()
    async with asyncio.timeout(1):
        assert (await waiting)["over_runs"] == []
