"""All attempts that are being watched, and how new ones are found: in our own rows at boot, then in Flower's list of runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from admin_server.background import DONE, Background
from admin_server.errors import FlowerRefused, SuperlinkNotRunning, SuperlinkUnreachable
from admin_server.flower import PAGE, Flower, FlowerRun
from admin_server.ids import is_uuid
from admin_server.series import lead_to
from admin_server.watch.outcome import cause
from admin_server.watch.run_watch import ENDS, RunWatch, Surroundings

log = logging.getLogger(__name__)
ACTIVE = ["pending", "starting", "running", "paused", "stopping"]
STEP_S = 0.25
DISCOVER_S = 1.0
IDLE_S = 2.0  # while nothing runs: a list costs the SuperLink some 20 ms
ENDED_LOOKED_AT = 20  # ended runs whose last lines may have come while this server was away


class Watches:
    """The watches by Flower run id, each with its own loop."""

    def __init__(self, around: Surroundings, project_id: str, background: Background) -> None:
        self._around = around
        self._project_id = project_id
        self._background = background
        self._by_flower_id: dict[str, RunWatch] = {}
        self._finished: set[str] = set()
        self._starting: Counter[str] = Counter()
        self._has_listed_all = False
        self._listed_at = 0.0
        self._doubtful: list[str] = []
        self._taking = asyncio.Lock()
        self._on_lost: Callable[[str], None] = lambda run_id: None

    async def begin(self, on_lost: Callable[[str], None]) -> None:
        """Take up what this project's rows say is active, then look for more for ever.

        on_lost: called with a run's id once nothing more comes of an attempt that is over while its run is not.
        """
        self._on_lost = on_lost
        self._by_flower_id.clear()
        self._has_listed_all = False
        for status in (ACTIVE, None):
            where: dict[str, Any] = {"project_id": self._project_id} | ({"status": status} if status else {})
            for run in await self._around.store.rows("run_list", where, limit=1000 if status else ENDED_LOOKED_AT):
                if run["flower_run_id"] is not None:
                    await self._watch(run, run["flower_run_id"])
                elif status:
                    self.doubt(run["id"])
        self._background.repeat("discovery of runs", self._discover, DISCOVER_S)

    def of(self, run_id: str) -> RunWatch | None:
        """The watch of a run's newest attempt, while it is watched."""
        found = [watch for watch in self._by_flower_id.values() if watch.run_id == run_id]
        return found[-1] if found else None

    def all(self) -> list[RunWatch]:
        """Every attempt that is still being looked at, ended ones whose last words are being read too."""
        return list(self._by_flower_id.values())

    @asynccontextmanager
    async def starting(self, fab_hash: str) -> AsyncIterator[None]:
        """Leave unknown Flower runs of this FAB alone, while a StartRun of ours is under way."""
        self._starting[fab_hash] += 1
        try:
            yield
        finally:
            self._starting[fab_hash] -= 1

    async def look_for(self, flower_run_id: str) -> bool:
        """Make a row of a run that a shell started a moment ago, if the SuperLink has it; True when it did."""
        if not self._has_listed_all:
            return False
        try:
            found = await self._around.flower().run(flower_run_id)
        except (SuperlinkNotRunning, SuperlinkUnreachable, FlowerRefused):
            return False
        for run in await self._news([found] if found else []):
            await self._adopt(run)
        return flower_run_id in self._by_flower_id

    async def look_for_next(self, run: dict[str, Any]) -> bool:
        """Take up what goes on with a run and has no row, since nobody heard its StartRun answered; True if something does."""
        for found in reversed(await self._news(await self._around.flower().runs())):
            if found.series_id == run["series_id"] or found.run_id == run["id"]:
                await self._adopt(found)
        watch = self.of(run["id"])
        return watch is not None and not watch.has_ended

    def doubt(self, run_id: str) -> None:
        """Nobody knows whether the SuperLink took this intent: the next list of its runs tells."""
        self._doubtful.append(run_id)

    async def begin_attempt(self, run: dict[str, Any], flower_run_id: str, series_id: str) -> None:
        """Record that Flower runs this run now, and watch it; one that was stopped meanwhile is ended at once."""
        attempt = await self._around.store.begin_attempt(run["id"], flower_run_id, series_id)
        row = {**run, "status": attempt["run_status"], "series_id": series_id}
        await self._watch(row, flower_run_id)

    async def _watch(self, run: dict[str, Any], flower_run_id: str) -> RunWatch:
        if (known := self._by_flower_id.get(flower_run_id)) is not None:
            return known
        attempts = await self._around.store.rows("attempt_list", {"flower_run_id": flower_run_id})
        if (known := self._by_flower_id.get(flower_run_id)) is not None:
            return known
        noted, status = (attempts[0]["reason"], attempts[0]["status"]) if attempts else (None, "starting")
        is_lost = run["status"] not in ENDS and status not in ("starting", "running")
        watch = RunWatch(run, flower_run_id, noted, self._around, is_lost=is_lost)
        self._by_flower_id[flower_run_id] = watch

        async def step() -> object:
            done = await watch.step()
            if done is DONE:
                self._by_flower_id.pop(flower_run_id, None)
                self._finished.add(flower_run_id)
                if watch.is_lost:
                    self._on_lost(watch.run_id)
            return done

        self._background.repeat(f"watch of run {watch.run_id}", step, STEP_S)
        return watch

    async def _discover(self) -> None:
        """Look at Flower's runs, newest first, until a page has nothing new; all pages at the first time."""
        flower = self._around.flower()
        if not self._by_flower_id and time.monotonic() - self._listed_at < IDLE_S:
            return
        self._listed_at = time.monotonic()
        seen: set[str] = set()
        doubtful = list(self._doubtful)
        skip = 0
        while page := await flower.runs(skip):
            news = await self._news(page)
            for run in page:
                seen.add(run.flower_run_id)
                if (watch := self._by_flower_id.get(run.flower_run_id)) is not None:
                    watch.flower = run
                elif run.flower_run_id in self._finished and run.status != "finished":
                    await self._end_leftover(flower, run)
            for run in reversed(news):
                await self._adopt(run)
            skip += PAGE
            if len(page) < PAGE or (self._has_listed_all and not news):
                break
        self._has_listed_all = True
        await self._fail(doubtful)
        await self._refresh(flower, [watch for watch in self.all() if watch.flower_run_id not in seen])

    async def _end_leftover(self, flower: Flower, run: FlowerRun) -> None:
        """End what Flower would go on with although it has ended here: the SuperLink was away when it was to be told."""
        if await flower.stop_run(run.flower_run_id):
            log.warning("Flower's run %s had ended here and is ended at the SuperLink now", run.flower_run_id)

    async def _fail(self, doubtful: list[str]) -> None:
        """End the intents that no Flower run turned out to belong to."""
        told = cause("NeverStarted", "the SuperLink was asked to start this run and does not have it")
        for run_id in doubtful:
            await self._around.store.move_run(run_id, "failed", told, expected=["pending"])
            self._doubtful.remove(run_id)

    async def _refresh(self, flower: Flower, watches: list[RunWatch]) -> None:
        for watch, run in zip(watches, await asyncio.gather(*(flower.run(w.flower_run_id) for w in watches)), strict=True):
            watch.told(run)

    async def _news(self, page: list[FlowerRun]) -> list[FlowerRun]:
        """Give the runs of a page that are neither watched nor known to be over."""
        fresh = {r.flower_run_id: r for r in page if r.flower_run_id not in self._by_flower_id.keys() | self._finished}
        if not fresh:
            return []
        where = {"project_id": self._project_id, "flower_run_id": list(fresh), "status": [*ENDS, "lost"]}
        self._finished |= {row["flower_run_id"] for row in await self._around.store.rows("attempt_list", where, limit=PAGE)}
        return [run for run in fresh.values() if run.flower_run_id not in self._finished]

    async def _adopt(self, run: FlowerRun) -> None:
        """Make a row of a run that was started from a shell, or find the intent that it belongs to."""
        if self._starting[run.fab_hash]:
            return
        if (ours := await self._named_by(run)) is not None:
            await self._take(ours, run)
            return
        row = await self._around.store.adopt_run(
            self._project_id, run.flower_run_id, run.series_id, run.fab_id, run.fab_hash, run.config
        )
        if row["adopted"] != "attempt":
            log.info("run %s is Flower's run %s (%s)", row["id"], run.flower_run_id, row["adopted"])
        watch = await self._watch({**row, "series_id": run.series_id}, run.flower_run_id)
        watch.flower = run

    async def _named_by(self, found: FlowerRun) -> dict[str, Any] | None:
        """Give the active run that a Flower run says it is of, although it is of another series than that run was."""
        if not is_uuid(found.run_id):
            return None
        where = {"project_id": self._project_id, "id": found.run_id, "fab_hash": found.fab_hash, "status": ACTIVE}
        rows = await self._around.store.rows("run_list", where, limit=1)
        return rows[0] if rows and rows[0]["series_id"] not in (None, found.series_id) else None

    async def _take(self, ours: dict[str, Any], found: FlowerRun) -> None:
        """Have a run go on by a start that nobody heard answered, or end that: it has begun in a directory of its own."""
        async with self._taking:
            if found.flower_run_id in self._by_flower_id.keys() | self._finished:
                return
            attempts = await self._around.store.rows("attempt_list", {"run_id": ours["id"]}, limit=1000)
            waits = found.status != "finished" and attempts[-1]["status"] not in ("starting", "running")
            if waits and lead_to(self._around.runs_dir, found.series_id, ours["series_id"]):
                await self.begin_attempt(ours, found.flower_run_id, found.series_id)
                log.info("run %s goes on as Flower's run %s, whose start was not answered", ours["id"], found.flower_run_id)
                return
            self._finished.add(found.flower_run_id)
            await self._end_leftover(self._around.flower(), found)
