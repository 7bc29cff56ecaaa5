"""The ways back: control.json to the engine, wishes to the sites, who is known dead."""

import asyncio
import json
from pathlib import Path

from admin_server.control import ControlFile
from admin_server.feed import Feed
from admin_server.lost_nodes import SUPERLINK, LostNodes
from admin_server.wanted import Wanted


def test_control_is_written_on_change_alone_and_its_seq_grows(tmp_path: Path) -> None:
    path = tmp_path / "control.json"
    control = ControlFile(path)
    control.ask("run")
    control.lose({}, {})
    assert not path.exists(), "absent means run, so there is nothing to say"
    control.lose({"5": "offline"}, {})
    control.ask("stop")
    control.ask("stop")
    assert json.loads(path.read_text()) == {"seq": 2, "want": "stop", "lost_nodes": {"5": "offline"}, "deaths": {}}


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
    assert json.loads(path.read_text()) == {"seq": 2, "want": "run", "lost_nodes": {}, "deaths": {}, "nodes": "same"}
    control.go_on({"5": "offline"}, by_hand=True)
    assert json.loads(path.read_text()) == {
        "seq": 3,
        "want": "run",
        "lost_nodes": {"5": "offline"},
        "deaths": {},
        "nodes": "same",
    }
    control.ask("pause")
    control.go_on({}, by_hand=False)
    assert json.loads(path.read_text()) == {"seq": 5, "want": "pause", "lost_nodes": {}, "deaths": {}}


def test_a_control_file_that_cannot_be_read_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "control.json"
    path.write_text('{"seq": "x"')
    ControlFile(path).ask("stop")
    assert json.loads(path.read_text())["want"] == "stop"


def test_a_node_that_came_back_is_not_lost_but_its_death_is_told() -> None:
    lost = LostNodes()
    lost.dead("5", "killed")
    assert lost.reasons() == {"5": "killed"}
    lost.alive("5")
    assert lost.reasons() == {}
    (first,) = lost.deaths().values()
    assert first["reason"] == "killed"
    lost.dead("5", "killed")
    (second,) = lost.deaths().values()
    assert second["at"] != first["at"]


def test_one_death_that_two_tell_of_is_one() -> None:
    lost = LostNodes()
    lost.dead("5", "killed")
    told = lost.deaths()
    lost.dead("5", "offline", SUPERLINK)
    assert lost.deaths() == told
    lost.alive("5", said_by=SUPERLINK)
    assert lost.reasons() == {"5": "killed"}


def test_another_session_means_that_the_one_before_died_unseen() -> None:
    lost = LostNodes()
    lost.alive("5", "s1")
    lost.alive("5", "s1")
    assert lost.deaths() == {}
    lost.alive("5", "s2")
    assert lost.reasons() == {}
    assert [death["reason"] for death in lost.deaths().values()] == ["its SuperNode was started anew"]


def test_a_node_whose_death_was_seen_does_not_die_again_by_its_next_session() -> None:
    """A report that it runs comes before the first heartbeat of its session, when it may have a message already."""
    lost = LostNodes()
    lost.alive("5", "s1")
    lost.dead("5", "its SuperNode is stopped")
    told = lost.deaths()
    lost.alive("5")
    lost.alive("5", "s2")
    assert lost.deaths() == told


def test_the_superlink_does_not_revive_whom_its_own_site_calls_dead() -> None:
    """It has a killed SuperNode as online for 37 to 60 s."""
    lost = LostNodes()
    lost.dead("5", "killed by signal 9")
    lost.alive("5", said_by=SUPERLINK)
    assert lost.reasons() == {"5": "killed by signal 9"}


def test_a_site_whose_supernode_begins_anew_takes_back_what_the_superlink_said_of_the_one_before() -> None:
    lost = LostNodes()
    lost.alive("5", "s1")
    lost.dead("5", "offline", SUPERLINK)
    lost.alive("5", "s1")
    assert lost.reasons() == {"5": "offline"}, "its SuperNode runs, and cannot reach the SuperLink"
    lost.dead("5", "killed by signal 9")
    lost.alive("5")
    assert lost.reasons() == {}
    lost.dead("5", "offline", SUPERLINK)
    lost.alive("5", "s2")
    lost.alive("5", "s3")
    assert lost.reasons() == {}


def test_deaths_that_a_server_before_us_wrote_stay(tmp_path: Path) -> None:
    path = tmp_path / "control.json"
    first, second = {"at": "10:00", "reason": "killed"}, {"at": "10:05", "reason": "offline"}
    ControlFile(path).lose({}, {"5": first})
    ControlFile(path).lose({}, {"6": second})
    assert json.loads(path.read_text())["deaths"] == {"5": first, "6": second}


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
