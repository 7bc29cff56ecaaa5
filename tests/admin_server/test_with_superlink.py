"""The server as a process with a real SuperLink: runs recorded, causes told, nodes enrolled, everything found again.

It listens beyond loopback, so with a certificate of its own CA, as it does for sites on other machines.
"""

import asyncio
import os
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
import psycopg
import pytest
from client_server.invitation import parse_invitation
from control_plane.files import read_json
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from psycopg.conninfo import make_conninfo

from db import migrate
from tests.admin_server.admin_app import write_app

T = TypeVar("T")
SERVERS = {
    "hello": "    print('hello from the app')\n",
    "raises": "    raise RuntimeError('the model file is missing')\n",
    "sleeps": "    import time\n    print('asleep', flush=True)\n    time.sleep(300)\n",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, look: Callable[[], T | None], seconds: float = 60) -> T:
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, f"not within {seconds} s: {what}; last seen {found!r}"
        time.sleep(0.1)
    return found


class Process:
    """`python -m admin_server` in a home of its own."""

    def __init__(self, home: Path, dsn: str) -> None:
        self.home, self.dsn, self.port = home, dsn, free_port()
        (home / "apps-dir").mkdir(parents=True)
        for name, body in SERVERS.items():
            folder = write_app(home / "apps-dir" / name)
            head = (folder / "server.py").read_text().rpartition("\n    ")[0]
            (folder / "server.py").write_text(f"{head}\n{body}")
        self.env = {"ESPALIER_HOME": str(home), "DATABASE_URL": dsn, "APPS_DIR": str(home / "apps-dir")}
        self.http = httpx.Client()
        self.command = [sys.executable, "-m", "admin_server"]
        self.env |= {"ADMIN_PORT": str(self.port), "SUPERLINK_PORT": str(free_port()), "PATH": os.environ["PATH"]}
        self.url = f"https://localhost:{self.port}"
        self.env |= {"ADMIN_HOST": "0.0.0.0", "PUBLIC_URL": self.url}

    def start(self) -> None:
        with (self.home / "out.log").open("ab") as out:
            self.child = subprocess.Popen(self.command, env=self.env, stdout=out, stderr=out)
        wait_for("the server to answer", self.answers)
        token = (self.home / "admin.token").read_text().strip()
        self.http.close()
        headers = {"Authorization": f"Bearer {token}"}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=30, verify=self.trusted())

    def answers(self) -> bool:
        assert self.child.poll() is None, (self.home / "out.log").read_text()
        try:
            return httpx.get(f"{self.url}/health", verify=self.trusted()).is_success
        except (httpx.TransportError, FileNotFoundError):
            return False

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.home / "tls" / "ca.crt")

    def superlink(self) -> dict[str, Any]:
        return dict(self.http.get("/superlink").json())

    def run(self, app: str) -> str:
        answer = self.http.post("/runs/start", json={"app": app, "stream": True})
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/runs/{answer.json()['id']}"
        return str(answer.json()["id"])

    def shown(self, run_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"/runs/{run_id}").json())

    def ended(self, run_id: str, seconds: float = 60) -> dict[str, Any]:
        ends = ("completed", "failed", "stopped")
        return wait_for("the run's end", lambda: shown if (shown := self.shown(run_id))["status"] in ends else None, seconds)

    def texts(self, run_id: str) -> list[str]:
        return [line["text"] for line in self.http.get(f"/runs/{run_id}/logs?limit=1000").json()["items"]]

    def server_app(self, run_id: str) -> int:
        """Wait for its ServerApp and give its pid."""
        wait_for("the ServerApp to work", lambda: any("asleep" in text for text in self.texts(run_id)))
        shown = self.shown(run_id)
        record = read_json(Path(shown["run_dir"]) / "attempts" / shown["flower_run_id"] / "proc.json")
        assert record is not None
        return int(record["pid"])


@pytest.fixture(scope="module")
def real(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("create database with_superlink")
    dsn = make_conninfo(postgres_server, dbname="with_superlink")
    asyncio.run(migrate.apply(dsn))
    server = Process(tmp_path_factory.mktemp("real"), dsn)
    try:
        server.start()
        assert server.http.post("/superlink/start", json={}).status_code == 202
        wait_for("the SuperLink to run", lambda: server.superlink()["state"] == "running")
        yield server
    finally:
        server.http.close()
        server.child.terminate()
        code = server.child.wait(60)
        left = [p.pid for p in psutil.process_iter() if str(server.home) in " ".join(cmdline(p))]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert (code, left) == (0, []), "a graceful stop leaves nothing behind"


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return []


def public_key() -> str:
    return ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_a_site_enrols_once_with_its_invitation(real: Process) -> None:
    made = real.http.post("/nodes/invitations", json={"label": "site-a"}).json()
    told = parse_invitation(made["invitation"])
    assert told.address == real.url
    assert told.ca_der is not None
    trusted = ssl.create_default_context(cadata=told.ca_der)

    def enrol(secret: str, **change: Any) -> httpx.Response:
        body = {"external_id": "site-a", "display_name": "A", "public_key": public_key(), **change}
        headers = {"Authorization": f"Bearer {secret}"}
        return httpx.post(f"{told.address}/nodes/enrol", json=body, headers=headers, timeout=30, verify=trusted)

    def slug(answer: httpx.Response) -> tuple[int, str]:
        return answer.status_code, answer.json()["type"].rpartition("#")[2]

    assert slug(enrol("unheard-of")) == (401, "invitation-unknown")
    assert slug(enrol(told.secret, public_key="ssh-rsa AAAA")) == (422, "public-key-invalid")
    key = public_key()
    enrolled = enrol(told.secret, public_key=key)
    assert enrolled.status_code == 201, enrolled.text
    node = enrolled.json()
    assert node["ca_certificate"] == (real.home / "tls" / "ca.crt").read_text()
    assert node["superlink_address"] == real.superlink()["address"]
    assert slug(enrol(told.secret)) == (409, "invitation-used")
    again = parse_invitation(real.http.post("/nodes/invitations").json()["invitation"])
    assert slug(enrol(again.secret)) == (409, "node-enrolled")
    assert slug(enrol(again.secret, external_id="b", public_key=key)) == (422, "public-key-invalid")
    with psycopg.connect(real.dsn, autocommit=True) as connection:
        connection.execute("update invitations set expires_at = now() where used_at is null")
    assert slug(enrol(again.secret, external_id="b")) == (410, "invitation-expired")
    states = [one["status"] for one in real.http.get("/nodes/invitations").json()["items"]]
    assert states == ["expired", "used"]
    assert real.http.delete("/nodes/site-a").status_code == 204
    assert real.http.delete(f"/nodes/{node['node_id']}").status_code == 404


def test_a_foreign_app_is_recorded_and_its_log_streams_live(real: Process) -> None:
    run_id = real.run("hello")
    with real.http.stream("GET", f"/runs/{run_id}/logs?follow=true", timeout=60) as stream:
        told = "".join(stream.iter_text())
    assert "hello from the app" in told
    assert told.rstrip().endswith("event: end\ndata: {}")
    run = real.shown(run_id)
    assert (run["status"], run["origin"], run["cause"]) == ("completed", "rest", None)
    assert [attempt["status"] for attempt in run["attempts"]] == ["completed"]
    log = Path(run["run_dir"]) / "attempts" / run["flower_run_id"] / "server.log"
    assert len(real.texts(run_id)) == sum(bool(line.strip()) for line in log.read_text().splitlines())


def test_an_exception_of_a_server_app_is_the_runs_cause(real: Process) -> None:
    run = real.ended(real.run("raises"))
    assert run["status"] == "failed"
    assert (run["cause"]["type"], run["cause"]["message"]) == ("RuntimeError", "the model file is missing")
    assert "server.py" in run["cause"]["traceback"]
    assert run["cause"]["node_name"] == "Coordinator"


def test_a_killed_server_finds_its_processes_and_the_run_again(real: Process) -> None:
    run_id = real.run("sleeps")
    pid = real.server_app(run_id)
    second = real.http.post("/runs/start", json={"app": "hello"})
    assert (second.status_code, second.json()["run_id"]) == (409, run_id)
    wait_for("the run to be shown as running", lambda: real.shown(run_id)["status"] == "running")
    before = read_json(real.home / "superlink" / "proc.json")
    lines = real.texts(run_id)
    real.child.kill()
    real.child.wait()
    real.start()
    wait_for("the SuperLink to be adopted", lambda: real.superlink()["executor"]["state"] == "running")
    assert read_json(real.home / "superlink" / "proc.json") == before
    assert (real.shown(run_id)["status"], real.texts(run_id)) == ("running", lines)
    os.kill(pid, signal.SIGKILL)
    run = real.ended(run_id, 5)
    assert run["status"] == "failed"
    assert "SIGKILL" in run["cause"]["message"]
    assert "asleep" in run["cause"]["last_lines"]
    assert run["reason"].startswith("ServerApp died")


def test_a_stop_ends_a_server_app_that_never_calls_home(real: Process) -> None:
    run_id = real.run("sleeps")
    pid = real.server_app(run_id)
    assert psutil.Process(pid).environ()["ESPALIER_DATA_DIRS"] == f"{real.home / 'data'}:/usr/share/datasets"
    assert real.http.post("/runs/stop").json()["status"] == "stopping"
    run = real.ended(run_id, 20)
    assert (run["status"], run["reason"]) == ("stopped", "stop asked")
    assert not psutil.pid_exists(pid)
    assert real.http.post(f"/runs/{run_id}/stop").status_code == 409


def test_an_executor_that_dies_is_started_again(real: Process) -> None:
    old = read_json(real.home / "executor" / "proc.json")
    assert old is not None
    os.kill(old["pid"], signal.SIGKILL)
    wait_for("another executor", lambda: real.superlink()["executor"]["pid"] not in (None, old["pid"]), 20)
