"""A whole federation of real processes: admin server, SuperLink, executor, Postgres, and sites, driven by REST.

It lives in an ESPALIER_HOME of its own, on free ports. Kill helpers take the pid from `proc.json`
of this home, never from a name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from control_plane.identity import ProcessRecord

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")
Json = dict[str, Any]
MAX_ATTEMPTS = 3
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # else httpx loads all certificates for each request: 40 ms of CPU


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for(what: str, condition: Callable[[], T | None], timeout_s: float = 60.0) -> T:
    """Poll until the condition is truthy and return it; fail naming what was waited for."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:g} s: {what}; last seen {value!r}")
        time.sleep(0.1)


def process_record(folder: Path) -> Json | None:
    """Read the proc.json of a folder; None when there is none."""
    try:
        return dict(json.loads((folder / "proc.json").read_text()))
    except FileNotFoundError:
        return None


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_recorded(folder: Path) -> int:
    """SIGKILL the process that a proc.json names and wait until it is gone."""
    record = process_record(folder)
    assert record is not None, f"no proc.json in {folder}"
    os.kill(record["pid"], signal.SIGKILL)
    wait_for(f"pid {record['pid']} to be gone", lambda: not is_alive(record["pid"]), 10)
    return int(record["pid"])


class Server:
    """One of our servers as a process of its own, with its REST client."""

    def __init__(self, module: str, port: int, env: dict[str, str], log: Path, token_file: Path) -> None:
        self.module, self.port, self.env, self.log, self.token_file = module, port, env, log, token_file
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.spawn()
        self.wait_up()

    def spawn(self) -> None:
        """Start the process; it is up when wait_up returns."""
        allowed = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")}
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                env={**allowed, **self.env},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def wait_up(self) -> None:
        wait_for(f"{self.module} to answer on port {self.port}", self._answers, 40)

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.module} ended with {self.process.returncode}:\n{self.tail()}")
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=2, verify=NO_TLS).status_code == 200
        except httpx.TransportError:
            return False

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    @property
    def token(self) -> str:
        return self.token_file.read_text().strip()

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", **kwargs.pop("headers", {})}
        return httpx.request(method, f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=40, verify=NO_TLS, **kwargs)

    def get(self, path: str, **params: Any) -> Json:
        answer = self.request("GET", path, params=params)
        assert answer.status_code == 200, f"GET {path}: {answer.status_code} {answer.text}"
        return dict(answer.json())

    def post(self, path: str, body: Json | None = None, expect: int = 202) -> Json:
        answer = self.request("POST", path, json=body or {})
        assert answer.status_code == expect, f"POST {path}: {answer.status_code} {answer.text}"
        return dict(answer.json())

    def items(self, path: str, **params: Any) -> list[Json]:
        """Walk all pages of a list."""
        found: list[Json] = []
        after: int | None = None
        while True:
            page = self.get(path, limit=1000, **params, **({} if after is None else {"after": after}))
            found += page["items"]
            after = page["next"]
            if after is None:
                return found

    def follow(self, path: str, last_event_id: str) -> Iterator[tuple[str, Json]]:
        """Give the events of a stream, each with its id, until the stream ends or breaks off."""
        headers = {"Authorization": f"Bearer {self.token}", "Last-Event-ID": last_event_id}
        url = f"http://127.0.0.1:{self.port}{path}?follow=true"
        said: dict[str, str] = {}
        stream = httpx.stream("GET", url, headers=headers, timeout=40, verify=NO_TLS)
        with contextlib.suppress(httpx.TransportError), stream as answer:
            assert answer.status_code == 200, answer.read()
            for line in answer.iter_lines():
                if line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    said[name] = value
                elif said.get("id"):
                    yield said["id"], json.loads(said["data"])
                    said.clear()

    def kill(self) -> None:
        """SIGKILL the server alone; what it supervises stays."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(40)


class Stack:
    """Admin server and sites below one ESPALIER_HOME."""

    def __init__(self, home: Path, apps_dir: Path, sites: int, site_env: dict[str, str] | None = None) -> None:
        self.home, self.superlink_port = home, free_port()
        common = {"ESPALIER_HOME": str(home), "CLIENT_THREADS": "1"}
        admin_port = free_port()
        self.admin = Server(
            "admin_server",
            admin_port,
            {
                **common,
                "ADMIN_PORT": str(admin_port),
                "SUPERLINK_PORT": str(self.superlink_port),
                "APPS_DIR": str(apps_dir),
                "MAX_ATTEMPTS": str(MAX_ATTEMPTS),
            },
            home / "admin-server.out",
            home / "admin.token",
        )
        self._site_env = {**common, "FORWARD_LOGS": "all", **(site_env or {})}
        self.sites = [self._site(i) for i in range(sites)]

    def _site(self, index: int) -> Server:
        port, name = free_port(), f"site-{index}"
        env = {"DATA_DIRS": f"{self.site_folder(index) / 'data'}:{self.home / 'data'}:/usr/share/datasets", **self._site_env}
        env |= {"CLIENT_PORT": str(port), "PARTICIPANT_NODE_ID": name, "PARTICIPANT_NODE_NAME": name}
        token = self.home / "sites" / name / "site.token"
        return Server("client_server", port, env, self.home / f"{name}.out", token)

    def site_folder(self, index: int) -> Path:
        return self.home / "sites" / f"site-{index}"

    def cut_power(self) -> None:
        """SIGKILL everything at once: what a proc.json names, what that has started, and the servers."""
        records = [record for path in self.home.rglob("proc.json") if (record := ProcessRecord.read(path)) and record.is_alive()]
        servers = [server.process.pid for server in (self.admin, *self.sites) if server.process is not None]
        leaders = [psutil.Process(pid) for pid in {*servers, *(record.pid for record in records)}]
        doomed = {process for leader in leaders for process in (leader, *leader.children(recursive=True))}
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for server in (self.admin, *self.sites):
            if server.process is not None:
                server.process.wait(10)
        wait_for("everything to be dead", lambda: not any(is_alive(process.pid) for process in doomed), 20)
        wait_for("whoever was born meanwhile to be dead", lambda: not self._killed_rest(), 20)

    def _killed_rest(self) -> list[int]:
        rest = list(self.processes())
        for process in rest:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return [process.pid for process in rest]

    def power_up(self) -> None:
        """Start the servers, all at once, as an init system does; the rest is theirs."""
        for server in (self.admin, *self.sites):
            server.spawn()
        for server in (self.admin, *self.sites):
            server.wait_up()

    def start(self) -> None:
        self.admin.start()
        self.admin.post("/superlink/start")
        wait_for("the SuperLink to run", self._superlink_runs, 60)
        for index, site in enumerate(self.sites):
            site.start()
            self.enrol(index)
            self.start_node(index)
        self.wait_online(len(self.sites))

    def _superlink_runs(self) -> bool:
        state = self.admin.get("/superlink")
        assert state["state"] != "failed", state
        return bool(state["state"] == "running")

    def enrol(self, index: int) -> Json:
        invitation = self.admin.post("/nodes/invitations", {"label": f"site-{index}"}, expect=201)["invitation"]
        return self.sites[index].post("/enrolment", {"invitation": invitation}, expect=201)

    def start_node(self, index: int) -> None:
        self.sites[index].post("/supernode/start", {"partition_id": index, "num_partitions": len(self.sites)})

    @contextlib.contextmanager
    def another_site(self) -> Iterator[str]:
        """Have a site more, that was never there before; gives its Flower node id, and removes it in the end."""
        index = len(self.sites)
        self.sites.append(self._site(index))
        try:
            self.sites[index].start()
            self.enrol(index)
            self.start_node(index)
            node = wait_for("the new node online", lambda: self._online(f"site-{index}"), 60)
            yield node["flower_node_id"]
        finally:
            self.sites.pop().stop()
            if enrolled := self.nodes().get(f"site-{index}"):
                self.admin.request("DELETE", f"/nodes/{enrolled['id']}")
            shutil.rmtree(self.site_folder(index))

    def _online(self, name: str) -> Json | None:
        node = self.nodes().get(name)
        return node if node and node["status"] == "online" else None

    def nodes(self) -> dict[str, Json]:
        return {n["external_id"]: n for n in self.admin.items("/nodes") if n["role"] == "participant"}

    def wait_online(self, count: int, timeout_s: float = 60) -> None:
        def online() -> bool:
            return [n["status"] for n in self.nodes().values()].count("online") >= count

        wait_for(f"{count} nodes online", online, timeout_s)

    # Runs
    def start_run(self, app: str = "flower-app", **run_config: Any) -> str:
        config = {key.replace("_", "-"): value for key, value in run_config.items()}
        return str(self.admin.post("/runs/start", {"app": app, "run_config": config})["id"])

    def run(self, run_id: str) -> Json:
        return self.admin.get(f"/runs/{run_id}")

    def wait_end(self, run_id: str, timeout_s: float = 100) -> Json:
        def ended() -> Json | None:
            run = self.run(run_id)
            return run if run["status"] in ("completed", "failed", "stopped") else None

        return wait_for(f"run {run_id} to end", ended, timeout_s)

    def wait_rounds(self, run_id: str, rounds: int, timeout_s: float = 60) -> Json:
        def done() -> Json | None:
            run = self.run(run_id)
            assert run["status"] not in ("failed", "stopped"), run
            return run if run["rounds_done"] >= rounds else None

        return wait_for(f"{rounds} rounds of run {run_id}", done, timeout_s)

    def run_folder(self, run_id: str) -> Path:
        return Path(self.run(run_id)["run_dir"])

    def journal(self, run_id: str) -> list[Json]:
        return [json.loads(line) for line in (self.run_folder(run_id) / "journal.jsonl").read_text().splitlines()]

    def processes(self) -> Iterator[psutil.Process]:
        """Every live process that belongs to this home."""
        for process in psutil.process_iter():
            try:
                text = " ".join(process.cmdline()) + process.environ().get("ESPALIER_HOME", "")
                if str(self.home) in text and process.status() != psutil.STATUS_ZOMBIE:
                    yield process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue

    def stop(self) -> None:
        for server in (*self.sites, self.admin):
            if server.process is not None:
                server.stop()
        left = [f"{p.pid} {' '.join(p.cmdline())[:120]}" for p in self.processes()]
        for process in self.processes():
            process.kill()
        assert not left, f"processes left behind: {left}"
