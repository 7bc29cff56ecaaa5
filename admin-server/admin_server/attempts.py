"""A run's next attempt: by itself after one that was lost, by hand after the run's end.

lost ──▶ waits 0, 1, 2, 4 … s ──▶ the old ServerApp is dead, its Flower run ended ──▶ StartRun in the same series ──▶ watched
  │                                                                                       └─ series unknown ─▶ a new one
  ├─ stop asked ─▶ stopped
  └─ MAX_ATTEMPTS in a row without a committed round ─▶ failed, with the last one's cause
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from admin_server.apps import Apps
from admin_server.background import DONE, Background
from admin_server.control import ControlFile, Nodes
from admin_server.errors import ActiveRun, FlowerRefused, RunChanged, RunNotResumable
from admin_server.flower import RUN_ID_KEY, Flower
from admin_server.lost_nodes import LostNodes
from admin_server.rundir import RunDirectory
from admin_server.series import held, lead_to, let_all_go
from admin_server.watch.final_model import keep_final
from admin_server.watch.outcome import cause, cause_of
from admin_server.watch.process_end import Attempt
from admin_server.watch.run_watch import ENDS
from admin_server.watch.watches import Watches
from db.errors import ActiveRunExists
from db.store import Store

log = logging.getLogger(__name__)
LOOK_S = 0.25
LONGEST_PAUSE_S = 30.0
OPEN = ("starting", "running")


@dataclass
class Waiting:
    """A run that waits for its next attempt. since: monotonic seconds; refusals: how often the SuperLink would not start it."""

    since: float
    refusals: int = 0


class Attempts:
    """The runs that wait for their next attempt. max_attempts: so many in a row may end without a committed round."""

    def __init__(
        self,
        store: Store,
        apps: Apps,
        flower: Callable[[], Flower],
        watches: Watches,
        lost_nodes: LostNodes,
        runs_dir: Path,
        coordinator_name: str,
        max_attempts: int,
        background: Background,
    ) -> None:
        self._store, self._apps, self._flower, self._watches = store, apps, flower, watches
        self._lost_nodes, self._runs_dir, self._coordinator_name = lost_nodes, runs_dir, coordinator_name
        self._max_attempts, self._background = max_attempts, background
        self._waiting: dict[str, Waiting] = {}

    async def begin(self) -> None:
        """Have all that is active watched, and go on with what is lost."""
        self._waiting.clear()
        let_all_go(self._runs_dir)
        await self._watches.begin(self.want)

    def want(self, run_id: str) -> None:
        """Begin the next attempt of a run whose newest one is over, as soon as that can be."""
        if run_id not in self._waiting:
            self._waiting[run_id] = waiting = Waiting(time.monotonic())
            self._background.repeat(f"next attempt of run {run_id}", partial(self._look, run_id, waiting), LOOK_S)

    async def by_hand(self, run: dict[str, Any], nodes: Nodes) -> None:
        """Have a run that failed or was stopped go on after its last committed round.

        nodes: `same` waits for those of the round before, `any` takes whoever is there.
        Raises RunNotResumable, SuperlinkNotRunning, SuperlinkUnreachable, ActiveRun, RunChanged.
        """
        if why := self._why_not(run):
            raise RunNotResumable(f"Run {run['id']} cannot go on: {why}.", run_id=run["id"], status=run["status"])
        await self._flower().run(run["flower_run_id"])  # does anybody answer?
        self._control(run).reopen(self._lost_nodes.reasons(), nodes)
        try:
            moved = await self._store.move_run(run["id"], "starting", expected=["failed", "stopped"])
        except ActiveRunExists as exists:
            raise ActiveRun(f"Run {exists.run_id} is still active; stop it or wait for its end.", run_id=exists.run_id) from None
        if moved is None:
            raise RunChanged(f"Run {run['id']} has just changed; look at it and ask again.", run_id=run["id"])
        self.want(run["id"])

    async def end(self, run: dict[str, Any], status: str, why: dict[str, Any] | None = None) -> None:
        """End a run that waits for its next attempt; whoever hears of it finds its final model."""
        await keep_final(self._store, run["id"], self._directory(run))
        await self._store.move_run(run["id"], status, why)

    def _why_not(self, run: dict[str, Any]) -> str | None:
        if run["status"] not in ("failed", "stopped"):
            return f"it is {run['status']}"
        if self._watches.of(run["id"]) is not None:
            return "its last attempt is still ending, ask again in a moment"
        if run["series_id"] is None or not RunDirectory(self._runs_dir / run["series_id"]).journal.is_file():
            return "it has no journal, which its app may not write"
        return None if run["rounds_done"] else "no round of it is committed, so there is nothing to go on from; start it anew"

    async def _look(self, run_id: str, waiting: Waiting) -> object:
        if not await self._is_settled(run_id, waiting):
            return None
        self._waiting.pop(run_id, None)
        return DONE

    async def _is_settled(self, run_id: str, waiting: Waiting) -> bool:
        """Do what can be done now; True when the run waits no longer. Raises SuperlinkNotRunning, SuperlinkUnreachable."""
        (run,) = await self._store.rows("run_list", {"id": run_id}, limit=1)
        if run["status"] in ENDS:
            return True
        if run["status"] == "stopping":
            await self.end(run, "stopped")
            return True
        attempts = await self._store.rows("attempt_list", {"run_id": run_id}, limit=1000)
        if attempts[-1]["status"] in OPEN:
            return True
        fruitless = await self._fruitless(run_id, attempts)
        if fruitless >= self._max_attempts:
            await self._give_up(run, attempts[-1])
            return True
        tries = max(fruitless - 1, waiting.refusals)
        if time.monotonic() - waiting.since < (0 if tries == 0 else min(2.0 ** (tries - 1), LONGEST_PAUSE_S)):
            return False
        return await self._is_begun(run, attempts[-1], waiting)

    async def _fruitless(self, run_id: str, attempts: list[dict[str, Any]]) -> int:
        """Count the newest attempts that committed no round, back to where somebody had the run go on by hand."""
        count = 0
        for attempt in reversed(attempts):
            where = {"run_id": run_id, "attempt": attempt["flower_run_id"], "status": "closed"}
            if attempt["is_reopened"] or await self._store.rows("round_list", where, limit=1):
                break
            count += 1
        return count

    async def _give_up(self, run: dict[str, Any], newest: dict[str, Any]) -> None:
        attempt = self._attempt(run, newest)
        told = cause_of(newest["reason"] or "", attempt, attempt.end(), self._coordinator_name)
        await self.end(run, "failed", told)
        log.error("run %s failed: %d attempts without a committed round; %s", run["id"], self._max_attempts, newest["reason"])

    async def _is_begun(self, run: dict[str, Any], newest: dict[str, Any], waiting: Waiting) -> bool:
        if self._attempt(run, newest).kill():
            return False  # Flower would let both work; look again until it is gone
        flower = self._flower()
        if await self._watches.look_for_next(run):
            return True
        try:
            before = await flower.run(newest["flower_run_id"])
            if before is not None and before.status != "finished":
                await flower.stop_run(before.flower_run_id)
            self._control(run).go_on(self._lost_nodes.reasons(), by_hand=newest["is_reopened"])
            async with self._watches.starting(run["fab_hash"]):
                flower_run_id, series_id = await self._start(flower, run, None if before is None else before.fab_id)
                await self._watches.begin_attempt(run, flower_run_id, series_id)
        except FlowerRefused as refused:
            waiting.since, waiting.refusals = time.monotonic(), waiting.refusals + 1
            if waiting.refusals < self._max_attempts:
                log.warning("run %s: its next attempt is refused and tried again: %s", run["id"], refused.detail)
                return False
            await self.end(run, "failed", cause("FlowerRefused", refused.detail))
            return True
        log.info("run %s goes on as Flower's run %s", run["id"], flower_run_id)
        return True

    async def _start(self, flower: Flower, run: dict[str, Any], fab_id: str | None) -> tuple[str, str]:
        """Start it in its series. fab_id: None when the SuperLink does not know the run before, and so not the series."""
        config = dict(run["config"])
        if not config.get(RUN_ID_KEY, True):
            config[RUN_ID_KEY] = run["id"]
        fab = self._apps.content(run["fab_hash"])
        if fab_id is not None and fab is None:
            return await flower.start_stored_run(fab_id, run["fab_hash"], config, run["series_id"])
        if fab is None:
            raise FlowerRefused("The SuperLink has lost its state, and with it the app that a shell had brought.", code=None)
        if fab_id is not None:
            return await flower.start_run(fab, config, series_id=run["series_id"])
        with held(self._runs_dir, run["fab_hash"]):
            flower_run_id, series_id = await flower.start_run(fab, config)
            if not lead_to(self._runs_dir, series_id, run["series_id"]):  # the watches end it
                raise FlowerRefused(
                    f"Flower's run {flower_run_id} began before its directory could lead to the run's.", code=None
                )
        return flower_run_id, series_id

    def _attempt(self, run: dict[str, Any], row: dict[str, Any]) -> Attempt:
        return Attempt(self._directory(run).attempt(row["flower_run_id"]))

    def _control(self, run: dict[str, Any]) -> ControlFile:
        return ControlFile(self._directory(run).control)

    def _directory(self, run: dict[str, Any]) -> RunDirectory:
        return RunDirectory(self._runs_dir / run["series_id"])
