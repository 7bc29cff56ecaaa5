"""A run's next attempt at a SuperLink that a test steers: starts that are not answered, and what an attempt is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from admin_server.apps import Apps
from admin_server.attempts import Attempts
from admin_server.background import DONE, Background, Step
from admin_server.errors import FlowerRefused, RunNotResumable, SuperlinkUnreachable
from admin_server.feed import Feed
from admin_server.flower import Flower, FlowerRun
from admin_server.lost_nodes import LostNodes
from admin_server.wanted import Wanted
from admin_server.watch.run_watch import Surroundings
from admin_server.watch.watches import Watches
from control_plane.files import read_json, write_json

from db.store import Store
from tests.admin_server.admin_app import RECORDS
from tests.admin_server.kept_models import committed
from tests.admin_server.test_watch import soon, write_exit, write_journal

FAB_HASH = "f" * 64
Row = dict[str, Any]


@dataclass
class SteeredSuperlink:
    """What the Control API does for the next attempt. A start that is not answered is taken all the same, by `takes`."""

    known: list[FlowerRun] = field(default_factory=list)
    unanswered: int = 0
    refuses: int = 0
    takes: Callable[[FlowerRun], None] = lambda run: None

    async def start_run(
        self, fab: bytes, config: Mapping[str, Any], federation: str = "", series_id: str | None = None
    ) -> tuple[str, str]:
        if self.refuses:
            self.refuses -= 1
            raise FlowerRefused("The app is too large.", code=None)
        number = 78 + len([run for run in self.known if run.flower_run_id != "77"])
        run = FlowerRun(str(number), series_id or str(number + 1000), "lab/app", FAB_HASH, "running", "", "", dict(config))
        self.known.append(run)
        if self.unanswered:
            self.unanswered -= 1
            self.takes(run)
            raise SuperlinkUnreachable("The SuperLink went away before it answered.")
        return run.flower_run_id, run.series_id

    async def runs(self, skip: int = 0) -> list[FlowerRun]:
        return [] if skip else self.known[::-1]

    async def run(self, flower_run_id: str) -> FlowerRun | None:
        return next((run for run in self.known if run.flower_run_id == flower_run_id), None)

    async def stop_run(self, flower_run_id: str) -> bool:
        for at, run in enumerate(self.known):
            if run.flower_run_id == flower_run_id and run.status != "finished":
                self.known[at] = replace(run, status="finished", sub_status="stopped")
                return True
        return False


@pytest.fixture
def superlink(monkeypatch: pytest.MonkeyPatch) -> SteeredSuperlink:
    monkeypatch.setattr("admin_server.background.PAUSE_AFTER_FAILURE_S", 0.05)
    return SteeredSuperlink()


@pytest.fixture
async def run(store: Store, tmp_path: Path) -> Row:
    """Give a run with one committed round whose ServerApp was killed."""
    project = await store.open_project("fed-project", "Federated Project", "coordinator", "Coordinator")
    made = await store.begin_run(project["id"], "app", FAB_HASH, {"current-run-id": ""}, None, "rest")
    await store.begin_attempt(made["id"], "77", "900")
    folder = tmp_path / "runs" / "900"
    (folder / "attempts" / "77").mkdir(parents=True)
    write_journal(folder, *committed(folder))
    write_exit(folder, None, 9)
    return made


@pytest.fixture
async def attempts(store: Store, superlink: SteeredSuperlink, run: Row, tmp_path: Path) -> AsyncIterator[Attempts]:
    background = Background()
    yield attempts_of(run, store, superlink, tmp_path, background)
    await background.end()


def attempts_of(
    run: Row,
    store: Store,
    superlink: SteeredSuperlink,
    folder: Path,
    background: Background,
    watching: type[Watches] = Watches,
    max_attempts: int = 5,
) -> Attempts:
    runs_dir = folder / "runs"
    apps = Apps(folder / "apps-dir", folder / "apps")
    (folder / "apps" / f"{FAB_HASH}.fab").write_bytes(b"a FAB")
    lost_nodes = LostNodes()

    def flower() -> Flower:
        return cast(Flower, superlink)

    around = Surroundings(store, runs_dir, flower, lost_nodes, Wanted(Feed()), "Coordinator", apps.writes_journal)
    watches = watching(around, run["project_id"], background)
    return Attempts(store, apps, flower, watches, lost_nodes, runs_dir, "Coordinator", max_attempts, background)


async def shown(store: Store, run: Row) -> list[tuple[str, str]]:
    rows = await store.rows("attempt_list", {"run_id": run["id"]})
    return [(row["flower_run_id"], row["status"]) for row in rows]


async def becomes(store: Store, run: Row, *expected: tuple[str, str]) -> None:
    async def so() -> bool:
        return await shown(store, run) == list(expected)

    await soon(so)


def control(tmp_path: Path) -> Row:
    return dict(json.loads((tmp_path / "runs" / "900" / "control.json").read_text())) | {"seq": 0}


async def test_a_start_in_a_new_series_that_nobody_heard_answered_is_found_and_led_to_the_old_directory(
    store: Store, superlink: SteeredSuperlink, attempts: Attempts, run: Row, tmp_path: Path
) -> None:
    superlink.unanswered = 1
    await attempts.begin()
    await becomes(store, run, ("77", "lost"), ("78", "starting"))
    assert [each.flower_run_id for each in superlink.known] == ["78"]
    (row,) = await store.rows("run_list")
    assert (row["series_id"], row["flower_run_id"]) == ("1078", "78")
    assert (tmp_path / "runs" / "1078").resolve() == tmp_path / "runs" / "900"


async def test_an_unanswered_start_that_began_in_a_directory_of_its_own_is_ended_and_followed_by_another(
    store: Store, superlink: SteeredSuperlink, attempts: Attempts, run: Row, tmp_path: Path
) -> None:
    superlink.unanswered = 1
    superlink.takes = lambda taken: (tmp_path / "runs" / taken.series_id / "attempts").mkdir(parents=True)
    await attempts.begin()
    await becomes(store, run, ("77", "lost"), ("79", "starting"))
    assert [(each.flower_run_id, each.status) for each in superlink.known] == [("78", "finished"), ("79", "running")]
    assert len(await store.rows("run_list")) == 1
    assert (tmp_path / "runs" / "1079").resolve() == tmp_path / "runs" / "900"
    assert not (tmp_path / "runs" / "1078").is_symlink()


async def test_a_start_that_is_answered_too_late_does_not_take_a_run_from_its_attempt(
    store: Store, superlink: SteeredSuperlink, attempts: Attempts, run: Row
) -> None:
    await attempts.begin()
    await becomes(store, run, ("77", "lost"), ("78", "starting"))
    late = FlowerRun("90", "1090", "lab/app", FAB_HASH, "pending", "", "", {"current-run-id": run["id"]})
    superlink.known.append(late)

    async def is_ended() -> bool:
        return (await superlink.run("90") or late).status == "finished"

    await soon(is_ended)
    assert await shown(store, run) == [("77", "lost"), ("78", "starting")]
    assert len(await store.rows("run_list")) == 1


async def test_a_run_whose_next_attempt_is_refused_for_good_keeps_its_last_model(
    store: Store, superlink: SteeredSuperlink, attempts: Attempts, run: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    superlink.refuses = 1000
    monkeypatch.setattr(attempts, "_max_attempts", 1)
    await attempts.begin()

    async def failed() -> bool:
        return [row["status"] for row in await store.rows("run_list")] == ["failed"]

    await soon(failed)
    (artifact,) = await store.rows("artifact_list", {"run_id": run["id"]})
    assert (artifact["role"], artifact["round"]) == ("final", 1)


async def test_what_a_killed_server_held_is_let_go(attempts: Attempts, tmp_path: Path) -> None:
    hold = tmp_path / "runs" / f".hold-{'e' * 64}"
    hold.touch()
    await attempts.begin()
    assert not hold.exists()


async def test_nodes_chosen_by_hand_are_those_of_one_attempt_and_a_pause_of_before_is_over(
    store: Store, superlink: SteeredSuperlink, attempts: Attempts, run: Row, tmp_path: Path
) -> None:
    superlink.known.append(FlowerRun("77", "900", "lab/app", FAB_HASH, "finished", "failed", "", {}))
    for status in ("running", "failed"):
        await store.move_run(run["id"], status)
    folder = tmp_path / "runs" / "900"
    write_json(folder / "control.json", {"seq": 4, "want": "pause", "lost_nodes": {}})

    async def goes_on() -> bool:
        (row,) = await store.rows("run_list")
        with suppress(RunNotResumable):  # its last attempt is still ending
            await attempts.by_hand(row, "same")
            return True
        return False

    await attempts.begin()
    await soon(goes_on)
    await becomes(store, run, ("77", "failed"), ("78", "running"))
    assert control(tmp_path) == {"seq": 0, "want": "run", "lost_nodes": {}, "deaths": {}, "nodes": "same"}

    (folder / "attempts" / "78").mkdir()
    write_json(folder / "attempts" / "78" / "exit.json", read_json(folder / "attempts" / "77" / "exit.json"))
    await becomes(store, run, ("77", "failed"), ("78", "lost"), ("79", "starting"))
    assert control(tmp_path) == {"seq": 0, "want": "run", "lost_nodes": {}, "deaths": {}}


class Steps(Background):
    """A clock and a background that go on by hand."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = 1000.0
        self._step: Step | None = None

    def monotonic(self) -> float:
        return self._seconds

    def repeat(self, name: str, step: Step, every_s: float) -> None:
        self._step = step

    async def to_the_end(self) -> float:
        """Step once a second until there is no more to do; give how long that was."""
        assert self._step is not None
        began = self._seconds
        while await self._step() is not DONE:
            self._seconds += 1.0
        return self._seconds - began


class Unwatched(Watches):
    """Attempts begin, and nobody looks at them."""

    async def look_for_next(self, run: Row) -> bool:
        return False

    async def begin_attempt(self, run: Row, flower_run_id: str, series_id: str) -> None:
        await self._around.store.begin_attempt(run["id"], flower_run_id, series_id)


async def test_attempts_wait_longer_and_longer_until_one_commits_a_round(
    store: Store, superlink: SteeredSuperlink, run: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps()
    monkeypatch.setattr("admin_server.attempts.time", steps)
    attempts = attempts_of(run, store, superlink, tmp_path, steps, Unwatched, max_attempts=20)

    async def waits_s(count: int) -> list[float]:
        """Lose so many attempts, one after the other; give how long each next one waited."""
        found: list[float] = []
        for _ in range(count):
            await store.lose_attempt((await shown(store, run))[-1][0], "killed")
            attempts.want(run["id"])
            found.append(await steps.to_the_end())
        return found

    await store.apply_journal(run["id"], RECORDS[:7], 900)
    assert await waits_s(8) == [0, 0, 1, 2, 4, 8, 16, 30]
    second = [{**each, "seq": seq, "attempt": "85", "round": 2} for seq, each in enumerate((RECORDS[3], RECORDS[6]), 8)]
    await store.apply_journal(run["id"], second, 990)
    superlink.refuses = 4
    assert await waits_s(3) == [0 + 1 + 2 + 4 + 8, 0, 1]
