"""Starting and stopping runs: the intent is a row before Flower hears of it, the reason of a stop before Flower ends it."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from pathlib import Path
from typing import Any

from admin_server.apps import Apps, Fab
from admin_server.arguments import take
from admin_server.attempts import Attempts
from admin_server.control import ControlFile, Nodes, Want
from admin_server.errors import (
    ActiveRun,
    FederationUnknown,
    FlowerRefused,
    NoActiveRun,
    RunChanged,
    RunConfigInvalid,
    RunEnded,
    RunNotFound,
    RunNotResumable,
    RunNotSteerable,
    RunsUnwritable,
    SuperlinkUnreachable,
)
from admin_server.flower import RUN_ID_KEY, Flower
from admin_server.flwr_config import CONNECTION
from admin_server.ids import is_uint64, is_uuid
from admin_server.initial_models import KEY, InitialModels
from admin_server.run_config import Scalar, check, from_text
from admin_server.rundir import RunDirectory
from admin_server.schemas import RunStart
from admin_server.superlink import Superlink
from admin_server.watch.outcome import STOP_ASKED, cause
from admin_server.watch.run_watch import ENDS
from admin_server.watch.watches import ACTIVE, Watches
from db.errors import ActiveRunExists, DatabaseUnavailable
from db.store import Store

log = logging.getLogger(__name__)
END_ALL_S = 15.0
BETWEEN = ["starting", "running", "paused"]  # what a run is that nobody watches: it waits for its next attempt
COUNTED = ("rounds", "updates", "metrics", "log_lines", "events")


class Runs:
    """The runs of this server's project."""

    def __init__(
        self,
        store: Store,
        project_id: str,
        apps: Apps,
        superlink: Superlink,
        watches: Watches,
        attempts: Attempts,
        initial_models: InitialModels,
        runs_dir: Path,
    ) -> None:
        self._store = store
        self._project_id = project_id
        self._apps = apps
        self._superlink = superlink
        self._watches = watches
        self._attempts = attempts
        self._initial_models = initial_models
        self._runs_dir = runs_dir

    async def start(self, request: RunStart) -> dict[str, Any]:
        """Check everything, write the intent, start the run; give its row.

        Raises SuperlinkNotRunning, SuperlinkUnreachable, AppNotFound, AppInvalid, RunConfigInvalid, InitialModelUnfit,
        ArgumentRefused, RunsUnwritable, ActiveRun.
        """
        given = {**self._arguments(request.extra_args), **request.run_config}
        fab = await self._apps.fab(request.app)
        if request.initial_model is not None:
            if KEY in given:
                raise RunConfigInvalid(f"{KEY} is given twice: in run_config, and as initial_model.", key=KEY)
            given[KEY] = await self._initial_models.place(request.initial_model)
        config = check(fab.declared, fab.limits, given)
        self._see_writable()
        flower = self._superlink.flower
        federation = await self._federation(flower, request.federation_name)  # also: does anybody answer, before there is a row?
        try:
            run = await self._store.begin_run(
                self._project_id, request.app, fab.sha256, {**fab.declared, **config}, request.label, "rest"
            )
        except ActiveRunExists as exists:
            raise ActiveRun(f"Run {exists.run_id} is still active; stop it or wait for its end.", run_id=exists.run_id) from None
        # Once the row is there, a caller that hangs up must not leave it without its Flower run.
        return await asyncio.shield(asyncio.create_task(self._submit(flower, run, fab, config, federation)))

    async def _submit(
        self, flower: Flower, run: dict[str, Any], fab: Fab, config: dict[str, Scalar], federation: str
    ) -> dict[str, Any]:
        if not fab.declared.get(RUN_ID_KEY, True) and RUN_ID_KEY not in config:
            config = {**config, RUN_ID_KEY: run["id"]}
        async with self._watches.starting(fab.sha256):
            try:
                flower_run_id, series_id = await flower.start_run(fab.path.read_bytes(), config, federation)
            except SuperlinkUnreachable as away:  # it may have taken the run all the same: the next list of runs tells
                self._watches.doubt(run["id"])
                away.facts["run_id"] = run["id"]
                raise
            except FlowerRefused as refused:
                try:
                    await self._store.move_run(run["id"], "failed", cause("FlowerRefused", refused.detail))
                except DatabaseUnavailable:
                    self._watches.doubt(run["id"])
                refused.facts["run_id"] = run["id"]
                raise
            try:
                await self._watches.begin_attempt(run, flower_run_id, series_id)
                return await self.one(run["id"])
            except DatabaseUnavailable as away:  # it runs, and the next list of Flower's runs finds the intent that it is of
                log.error("run %s is Flower's run %s, which is not in the database yet: %s", run["id"], flower_run_id, away)
        return self.shown(run)

    def _see_writable(self) -> None:
        try:
            self._runs_dir.mkdir(mode=0o700, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._runs_dir) as file:
                file.write(b"room")
        except OSError as error:
            told = f"{self._runs_dir} cannot be written to ({error.strerror}): mend that, then start the run again."
            raise RunsUnwritable(told, path=str(self._runs_dir)) from None

    async def _federation(self, flower: Flower, name: str | None) -> str:
        """Give the federation to start in, "" for the SuperLink's default. Raises FederationUnknown."""
        known = await flower.federations()
        if name in (None, CONNECTION):
            return ""
        if name not in known:
            may = ", ".join([CONNECTION, *known])
            raise FederationUnknown(f"There is no federation {name!r}; there are: {may}.", federation_name=name)
        return str(name)

    def _arguments(self, extra_args: list[str]) -> dict[str, Any]:
        """Read `--run-config 'key=value …'`, the one flag of `flwr run` that may be given. Raises ArgumentRefused."""
        words = take(extra_args, {"--run-config": lambda text: None})
        given: dict[str, Any] = {}
        for text in words[1::2]:
            given |= from_text(text)
        return given

    async def stop(self, run_id: str | None, reason: str = STOP_ASKED) -> dict[str, Any]:
        """Ask a run to end, the one active REST-started run if none is named; give its row.

        Raises NoActiveRun, RunNotFound, RunEnded.
        """
        run = await self.one(run_id) if run_id is not None else await self._active_by_rest()
        if run["status"] in ENDS:
            raise RunEnded(f"Run {run['id']} has {run['status']} already.", run_id=run["id"], status=run["status"])
        watch = self._watches.of(run["id"])
        if watch is not None:
            await watch.ask("stop", reason)
        elif run["status"] != "stopping":
            await self._stop_unwatched(run)
        return await self.one(run["id"])

    async def _stop_unwatched(self, run: dict[str, Any]) -> None:
        """Stop an intent at once, and a run between two attempts where its next one would begin. Raises RunChanged."""
        is_intent = run["flower_run_id"] is None
        status, expected = ("stopped", ["pending"]) if is_intent else ("stopping", BETWEEN)
        if not await self._store.move_run(run["id"], status, expected=expected):
            raise RunChanged(f"Run {run['id']} has just changed; look at it and ask again.", run_id=run["id"])
        if not is_intent:
            self._attempts.want(run["id"])

    async def ask(self, run_id: str, want: Want) -> dict[str, Any]:
        """Ask a run to hold before its next round (pause), or to go on (run). Raises RunNotFound, RunEnded, RunNotSteerable."""
        run = await self.one(run_id)
        watch = self._watches.of(run["id"])
        told = f"Run {run['id']} is {run['status']} and cannot be paused or resumed"
        if run["status"] in BETWEEN and watch is None:  # its next attempt reads this
            ControlFile(RunDirectory(self._runs_dir / run["series_id"]).control).ask(want)
            return run
        if run["status"] in (*ENDS, "stopping") or watch is None:
            raise RunEnded(f"{told}.", run_id=run["id"], status=run["status"])
        if run["status"] not in ("pending", "starting") and not watch.reads_wishes:
            raise RunNotSteerable(
                f"{told}: its app writes no journal, so it does not read what is asked of it.", run_id=run["id"]
            )
        await watch.ask(want)
        return await self.one(run["id"])

    async def resume(self, run_id: str, nodes: Nodes | None) -> dict[str, Any]:
        """Let a paused run go on, or one that failed or was stopped, after its last committed round.

        nodes: for one that has ended. Raises RunNotFound, RunEnded, RunNotSteerable, and what Attempts.by_hand raises.
        """
        run = await self.one(run_id)
        if run["status"] not in ENDS:
            if nodes is not None:
                told = f"Run {run['id']} is {run['status']}: nodes are chosen when a run goes on that has ended."
                raise RunNotResumable(told, run_id=run["id"], status=run["status"])
            return await self.ask(run_id, "run")
        await self._attempts.by_hand(run, nodes or "same")
        return await self.one(run_id)

    async def end_all(self, reason: str) -> None:
        """End every active run, and wait until no ServerApp is left; KILL what stays."""
        watches = self._watches.all()
        active = [watch for watch in watches if not watch.has_ended]
        for watch, failed in zip(
            active, await asyncio.gather(*(each.ask("stop", reason) for each in active), return_exceptions=True), strict=True
        ):
            if failed is not None:
                log.error("run %s could not be asked to stop, and its ServerApp is killed: %s", watch.run_id, failed)
        await self._end_waiting({watch.run_id for watch in watches})
        if watches:
            await asyncio.wait([asyncio.create_task(watch.over.wait()) for watch in watches], timeout=END_ALL_S)
        for watch in watches:
            if watch.kill():
                log.warning("run %s: its ServerApp was killed, since it did not end within %d s", watch.run_id, END_ALL_S)

    async def _end_waiting(self, watched: set[str]) -> None:
        """End the runs that are between two attempts."""
        try:
            for run in await self.active():
                if run["id"] not in watched and run["flower_run_id"] is not None:
                    await self._attempts.end(run, "stopped")
        except DatabaseUnavailable as away:
            log.error("runs that wait for their next attempt are not ended: %s", away)

    async def active(self) -> list[dict[str, Any]]:
        where = {"project_id": self._project_id, "status": ACTIVE}
        return [self.shown(row) for row in await self._store.rows("run_list", where, limit=1000)]

    async def _active_by_rest(self) -> dict[str, Any]:
        found = [run for run in await self.active() if run["origin"] == "rest"] or await self.active()
        if not found:
            raise NoActiveRun()
        return found[0]

    async def one(self, run_id: str) -> dict[str, Any]:
        """Find a run by its id, a Flower run id of one of its attempts, or its series id. Raises RunNotFound."""
        found = await self._found(run_id)
        if found is None:
            raise RunNotFound(f"There is no run {run_id}.", run_id=run_id)
        return self.shown(found)

    async def id_of(self, run_id: str) -> str:
        """Give a run's own id for any of its ids. Raises RunNotFound."""
        return str((await self.one(run_id))["id"])

    async def with_attempts(self, run_id: str) -> dict[str, Any]:
        """Find a run, with a row for each of its attempts and the number of its rows. Raises RunNotFound."""
        run = await self.one(run_id)
        attempts = await self._store.rows("attempt_list", {"run_id": run["id"]}, limit=1000)
        (size,) = await self._store.rows("run_size", {"run_id": run["id"]})
        return {**run, "attempts": attempts, "rows": {what: size[what] for what in COUNTED}}

    async def is_over(self, run_id: str) -> bool:
        """Has it ended, and is everything read that it left behind?"""
        if self._watches.of(run_id) is not None:
            return False
        run = await self._found(run_id)
        return run is None or run["status"] in ENDS

    async def _found(self, run_id: str) -> dict[str, Any] | None:
        found = await find(self._store, self._project_id, run_id)
        if found is None and is_uint64(run_id) and await self._watches.look_for(run_id):
            return await find(self._store, self._project_id, run_id)
        return found

    def shown(self, row: dict[str, Any]) -> dict[str, Any]:
        """Add what only this server knows: where the run's directory is."""
        folder = None if row["series_id"] is None else str(self._runs_dir / row["series_id"])
        return {**row, "run_dir": folder}


async def find(store: Store, project_id: str, run_id: str) -> dict[str, Any] | None:
    """Find a run by any of its three ids."""
    where: dict[str, Any] = {"project_id": project_id}
    if is_uuid(run_id):
        rows = await store.rows("run_list", {**where, "id": run_id}, limit=1)
    elif is_uint64(run_id):
        attempts = await store.rows("attempt_list", {**where, "flower_run_id": run_id}, limit=1)
        key = {"id": attempts[0]["run_id"]} if attempts else {"series_id": run_id}
        rows = await store.rows("run_list", {**where, **key}, limit=1)
    else:
        return None
    return rows[0] if rows else None
