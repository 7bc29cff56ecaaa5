"""One attempt of a run, watched from its start until nothing more can come of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from admin_server.background import DONE
from admin_server.control import ControlFile, Want
from admin_server.errors import FlowerRefused, SuperlinkNotRunning, SuperlinkUnreachable
from admin_server.flower import Flower, FlowerRun
from admin_server.lost_nodes import LostNodes
from admin_server.rundir import RunDirectory
from admin_server.wanted import Wanted
from admin_server.watch.final_model import keep_final
from admin_server.watch.outcome import DIED, STOP_ASKED, Outcome, cause_of, derive
from admin_server.watch.process_end import Attempt, ProcessEnd
from admin_server.watch.tails import JournalTail, ServerLogTail
from db.store import Store

log = logging.getLogger(__name__)
ENDS = ("completed", "failed", "stopped")
BEGINNINGS = ("run.opened", "run.paused", "run.resumed")
STOP_GRACE_S = 5.0  # the engine's own time to write its end line, before StopRun
KILL_GRACE_S = 5.0  # after StopRun a ServerApp ends at its next call; one that computes makes none
JOURNAL_GRACE_S = 30.0  # for a ServerApp to be started and to import what it needs
LEAVE_GRACE_S = 15.0  # a ServerApp that has written its end still saves files and says goodbye to the SuperLink


@dataclass(frozen=True)
class Surroundings:
    """What a watch needs of the server around it."""

    store: Store
    runs_dir: Path
    flower: Callable[[], Flower]
    lost_nodes: LostNodes
    wanted: Wanted
    coordinator_name: str
    writes_journal: Callable[[str], Awaitable[bool]]


class RunWatch:
    """Read what an attempt leaves behind, notice its end within a second, and write how it ended."""

    def __init__(
        self, run: dict[str, Any], flower_run_id: str, noted: str | None, around: Surroundings, *, is_lost: bool = False
    ) -> None:
        """is_lost: the attempt is over already, and its run is not."""
        self.run_id = str(run["id"])
        self.flower_run_id = flower_run_id
        self.status = str(run["status"])
        self.is_lost = is_lost
        self.flower: FlowerRun | None = None
        self._fab_hash = run["fab_hash"]
        self._around = around
        self._noted = noted
        self._directory = RunDirectory(around.runs_dir / str(run["series_id"]))
        self._attempt = Attempt(self._directory.attempt(flower_run_id))
        self._has_looked_back = False
        self._journal = JournalTail(around.store, self.run_id, self._directory, int(run["journal_offset"]))
        self._log = ServerLogTail(around.store, self.run_id, self._directory, flower_run_id)
        self._control = ControlFile(self._directory.control)
        self._stop_asked_at = time.monotonic() if self.status == "stopping" else None
        self._seen_first_at = time.monotonic()
        self._overtime_since: float | None = None
        self.over = asyncio.Event()
        self._stop_sent_at: float | None = None

    @property
    def has_ended(self) -> bool:
        """Has its run ended, or is it lost, so that another attempt goes on with the run?"""
        return self.status in ENDS or self.is_lost

    @property
    def has_journal(self) -> bool:
        """Does its app write a journal?"""
        return self._directory.journal.exists()

    @property
    def reads_wishes(self) -> bool:
        """Does its app look into control.json? Taken for granted while it may still be about to open its journal."""
        return self.has_journal or time.monotonic() - self._seen_first_at < JOURNAL_GRACE_S

    async def ask(self, want: Want, reason: str = STOP_ASKED) -> None:
        """Want the engine to run, pause or stop; the reason of a stop is noted before anything is done."""
        if want != "stop":
            self._control.ask(want)
            return
        await self._note(reason)
        if (moved := await self._around.store.move_run(self.run_id, "stopping")) is not None:
            self.status = str(moved["status"])
        self._stop_asked_at = self._stop_asked_at or time.monotonic()
        self._tell_of_stop()

    def told(self, found: FlowerRun | None) -> FlowerRun:
        """Take the SuperLink's word; a run that it does not know, since its state was lost, has failed."""
        gone = "the SuperLink does not know this run any more"
        self.flower = found or FlowerRun(self.flower_run_id, "", "", "", "finished", "failed", gone, {})
        return self.flower

    async def step(self) -> object:
        """Look once at everything; DONE when nothing more can come."""
        end = self._attempt.end()  # before the files are read: what a dead process wrote is then read whole
        await self._read()
        if not self.has_ended:
            await self._steer(end)
            await self._conclude(end)
        return await self._wind_up(end) if self.has_ended else None

    def kill(self) -> bool:
        """KILL the ServerApp; False when it is not there."""
        return self._attempt.kill()

    async def _read(self) -> None:
        if not self._has_looked_back:
            self._cancel(self._journal.look_back())
            self._has_looked_back = True
        records = await self._journal.catch_up()
        self._cancel(records)
        for record in records:
            if record["attempt"] != self.flower_run_id:
                continue
            if record["kind"] == "run.closed":
                self.status = record["status"]
            elif self._stop_asked_at is None and not self.has_ended and record["kind"] in BEGINNINGS:
                self.status = "paused" if record["kind"] == "run.paused" else "running"
        await self._log.catch_up()

    def _cancel(self, records: list[dict[str, Any]]) -> None:
        """Have the sites end what nobody waits for any more."""
        for record in records:
            is_given_up = record["kind"] == "update" and record["status"] in ("lost", "late") and not record["awaited"]
            if is_given_up and record["attempt"] == self.flower_run_id:
                self._around.wanted.cancel(record["node_id"], record["message_id"])

    async def _steer(self, end: ProcessEnd | None) -> None:
        """Tell the engine who is lost, tell the store that it runs, and make a stop happen that the engine does not."""
        if end is None and self.reads_wishes:
            lost_nodes = self._around.lost_nodes
            self._control.lose(lost_nodes.reasons(), lost_nodes.deaths())
        if self.status == "starting" and self.flower is not None and self.flower.status == "running":
            moved = await self._around.store.move_run(self.run_id, "running", expected=["starting"])
            self.status = "running" if moved is not None else self.status
        if self._stop_asked_at is None:
            return
        self._tell_of_stop()  # again: a server before this one may not have come to it
        now = time.monotonic()
        if now - self._stop_asked_at > STOP_GRACE_S or end is not None or not self.has_journal:
            await self._stop_run()
        waited_s = now - (self._stop_sent_at or self._stop_asked_at + STOP_GRACE_S)
        if waited_s > KILL_GRACE_S and self._attempt.kill():
            log.warning("run %s: its ServerApp did not end when asked to, and was killed", self.run_id)

    def _tell_of_stop(self) -> None:
        """Have the engine end, and its ClientApps whatever it does: in this order, so that it knows why they fail."""
        self._control.ask("stop")
        self._around.wanted.run_over(self.flower_run_id)

    async def _conclude(self, end: ProcessEnd | None) -> None:
        """Write the run's end, once somebody who is entitled to has said it."""
        if end is None and self._attempt.has_begun:
            self._kill_overtime(since_end=_is_over(self.flower))
            return
        if end is None and self._stop_sent_at is None and not _is_over(self.flower):
            return  # not started yet
        flower = await self._ask_flower()
        if end is not None and not _is_over(flower):
            if flower is None and end.is_clean and self._noted is None:
                return  # code 0 alone says nothing: wait until the SuperLink can be asked
            await self._note(f"{DIED}: {end.words()}")
            await self._stop_run()
        outcome = derive(self._noted, flower, end)
        if outcome is not None and outcome.status == "failed" and await self._can_go_on(end):
            await self._around.store.lose_attempt(self.flower_run_id, outcome.reason)
            self.is_lost = True
            log.warning("run %s has lost its attempt %s: %s", self.run_id, self.flower_run_id, outcome.reason)
        elif outcome is not None:
            await self._end(outcome, end)

    async def _can_go_on(self, end: ProcessEnd | None) -> bool:
        """Is there a journal to go on from, or would there have been one?

        Whoever leaves by itself before the first line fails each time. What the engine says of its own failure is an end line.
        """
        if self.has_journal or self._fab_hash is None:
            return self.has_journal
        left_by_itself = end is not None and end.rc is not None
        return not left_by_itself and await self._around.writes_journal(self._fab_hash)

    async def _end(self, outcome: Outcome, end: ProcessEnd | None) -> None:
        cause = None
        if outcome.status == "failed":
            cause = cause_of(outcome.reason, self._attempt, end, self._around.coordinator_name)
        await keep_final(self._around.store, self.run_id, self._directory)
        moved = await self._around.store.move_run(self.run_id, outcome.status, cause)
        self.status = str(moved["status"]) if moved is not None else outcome.status
        log.info("run %s %s: %s", self.run_id, self.status, outcome.reason)

    async def _wind_up(self, end: ProcessEnd | None) -> object:
        """After the end: tell the sites, and see that neither process nor Flower run outlives it."""
        self._around.wanted.run_over(self.flower_run_id)
        if self._stop_asked_at is not None:
            await self._stop_run()  # the engine has written its end and waits for this
        if end is None and self._attempt.has_begun:
            self._kill_overtime(since_end=True)
            return None
        if not _is_over(self.flower) and (found := await self._ask_flower()) is not None and not _is_over(found):
            await self._stop_run()
        await self._read()
        if self.status in ("failed", "stopped"):  # the engine may have failed before it read its commit, a server have crashed
            await keep_final(self._around.store, self.run_id, self._directory)
        self.over.set()
        return DONE

    def _kill_overtime(self, *, since_end: bool) -> None:
        """KILL a ServerApp that is still there long after its run ended."""
        self._overtime_since = (self._overtime_since or time.monotonic()) if since_end else None
        over = self._overtime_since is not None and time.monotonic() - self._overtime_since > LEAVE_GRACE_S
        if over and self._attempt.kill():
            log.warning("run %s: its ServerApp stayed after the run's end, and was killed", self.run_id)

    async def _note(self, reason: str) -> None:
        if self._noted is None:
            await self._around.store.note_attempt(self.flower_run_id, reason)
            self._noted = reason

    async def _ask_flower(self) -> FlowerRun | None:
        """Ask the SuperLink now; a run that it does not know (its state was lost) has failed."""
        try:
            found = await self._around.flower().run(self.flower_run_id)
        except (SuperlinkUnreachable, SuperlinkNotRunning, FlowerRefused) as away:
            log.info("run %s cannot be asked for at the SuperLink: %s", self.run_id, away)
            return None
        return self.told(found)

    async def _stop_run(self) -> None:
        """End it at the SuperLink, once. One that is away is asked again; one that was stopped has nothing to end."""
        if self._stop_sent_at is not None:
            return
        try:
            await self._around.flower().stop_run(self.flower_run_id)
        except (SuperlinkUnreachable, FlowerRefused) as away:
            log.info("run %s cannot be ended at the SuperLink yet: %s", self.run_id, away)
            return
        except SuperlinkNotRunning:
            log.info("run %s ends without the SuperLink, which is not running", self.run_id)
        self._stop_sent_at = time.monotonic()


def _is_over(flower: FlowerRun | None) -> bool:
    return flower is not None and flower.status == "finished"
