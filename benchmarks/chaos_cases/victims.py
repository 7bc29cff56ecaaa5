"""Processes of a running federation that are killed, each with what makes it ready again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from control_plane.identity import ProcessRecord

from tests.federation.stack import Stack, wait_for

READY_S = 120.0
POWER_CUT = "power cut"
OF_NODES = frozenset({"SuperNode", "ClientApp", POWER_CUT})
"""Whose death may leave a site's update out of a round; the round says so."""


@dataclass(frozen=True)
class Killed:
    """A kill that happened. ready_at: when the last process was ready again, wall clock in seconds."""

    kind: str
    ready_at: float


class Victims:
    """Kills one process of a stack at a time. A ServerApp or a ClientApp is not waited for: its clock runs from the kill."""

    def __init__(self, stack: Stack, chance: random.Random) -> None:
        self._stack, self._chance = stack, chance
        self._ways: dict[str, Callable[[Path], float | None]] = {
            "ServerApp": self._server_app,
            "SuperLink": lambda run_dir: self._kept("superlink", "state"),
            "executor": lambda run_dir: self._kept("executor", "executor"),
            "SuperNode": lambda run_dir: self._super_node(),
            "ClientApp": lambda run_dir: self._client_app(),
            "client server": lambda run_dir: self._client_server(),
            "admin server": lambda run_dir: self._admin_server(),
            "Postgres": lambda run_dir: self._postgres(),
            POWER_CUT: lambda run_dir: self._power_cut(),
        }

    @property
    def kinds(self) -> list[str]:
        return list(self._ways)

    def kill(self, kind: str, run_dir: Path) -> Killed | None:
        """Kill one of this kind and wait until it is back; None when there was none to kill."""
        ready_at = self._ways[kind](run_dir)
        return None if ready_at is None else Killed(kind, ready_at)

    def _server_app(self, run_dir: Path) -> float | None:
        return self._end([*run_dir.glob("attempts/*")])

    def _client_app(self) -> float | None:
        return self._end([*self._stack.home.glob("sites/*/supernode/clientapps/*/*")])

    def _kept(self, folder: str, what: str) -> float | None:
        if self._end([self._stack.home / folder]) is None:
            return None
        return self._once(lambda: self._superlink_runs(what), folder)

    def _superlink_runs(self, what: str) -> bool:
        shown = self._stack.admin.get("/superlink")
        part = shown if what == "state" else shown[what]
        folder = "superlink" if what == "state" else "executor"
        record = ProcessRecord.read(self._stack.home / folder / "proc.json")
        return part["state"] == "running" and record is not None and record.is_alive()

    def _super_node(self) -> float | None:
        index = self._chance.randrange(len(self._stack.sites))
        folder = self._stack.site_folder(index) / "supernode"
        return None if self._end([folder]) is None else self._once(lambda: self._node_runs(index), "the SuperNode")

    def _node_runs(self, index: int) -> bool:
        record = ProcessRecord.read(self._stack.site_folder(index) / "supernode" / "proc.json")
        there = record is not None and record.is_alive()
        return there and bool(self._stack.sites[index].get("/supernode")["state"] == "running")

    def _client_server(self) -> float:
        site = self._chance.choice(self._stack.sites)
        site.kill()
        site.start()
        return time.time()

    def _admin_server(self) -> float:
        self._stack.admin.kill()
        self._stack.admin.start()
        return time.time()

    def _postgres(self) -> float | None:
        folder = self._stack.home / "postgres"
        before = ProcessRecord.read(folder / "proc.json")
        if self._end([folder]) is None:
            return None

        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                after = ProcessRecord.read(folder / "proc.json")
                return after not in (None, before) and self._stack.admin.request("GET", "/runs").status_code == 200
            return False

        return self._once(answers, "Postgres")

    def _power_cut(self) -> float:
        self._stack.cut_power()
        self._stack.power_up()

        def all_run() -> bool:
            return all(map(self._superlink_runs, ("state", "executor"))) and all(
                map(self._node_runs, range(len(self._stack.sites)))
            )

        return self._once(all_run, "everything")

    def _end(self, folders: list[Path]) -> float | None:
        """SIGKILL one of the live processes that these folders name; give when."""
        alive = [record for folder in folders if (record := ProcessRecord.read(folder / "proc.json")) and record.is_alive()]
        if not alive:
            return None
        os.kill(self._chance.choice(alive).pid, signal.SIGKILL)
        return time.time()

    def _once(self, ready: Callable[[], bool], what: str) -> float:
        wait_for(f"{what} to be ready again", ready, READY_S)
        return time.time()
