"""A stack of Flower processes as Espalier starts them: TLS, node keys, our launchers."""

import hashlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest, StopRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control import ControlHttpClient

from tests.flower_runtime.certificates import make_certificates, write_key
from tests.flower_runtime.waiting import free_port, wait_for


class Node:
    """One SuperNode under our launcher."""

    def __init__(self, stack: "Stack", name: str) -> None:
        self.stack, self.name = stack, name
        self.state_dir = stack.home / name / "supernode"
        self.cache_dir = stack.home / name / "cache"
        self.wanted_file = stack.home / name / "wanted.json"
        self.key = stack.home / name / "node.key"
        self.key.parent.mkdir(parents=True)
        pem = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        public = write_key(self.key).public_bytes(*pem)
        self.id = stack.control.RegisterNode(RegisterNodeRequest(public_key=public, name=name)).node_id
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = stack.home / name / "supernode.log"

    def start(self, *ours: str) -> None:
        self.log.touch()
        offset = self.log.stat().st_size
        self.process = self.stack.spawn(
            self.log,
            "supernode",
            *("--state-dir", self.state_dir, "--wanted-file", self.wanted_file, "--cache-dir", self.cache_dir),
            *("--forward-logs", "all", "--node-name", self.name, *ours, "--"),
            *("--superlink", f"127.0.0.1:{self.stack.public_port}", "--root-certificates", self.stack.ca),
            *("--auth-supernode-private-key", self.key, "--port", self.port, "--node-config", f'name="{self.name}"'),
        )
        wait_for(f"{self.name} is connected", lambda: f"SuperNode ID: {self.id}" in self.log.read_text()[offset:])

    def activity(self) -> list[dict[str, Any]]:
        path = self.state_dir / "activity.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def clientapps(self, run_id: int) -> list[Path]:
        return list((self.state_dir / "clientapps" / str(run_id)).glob("*"))

    def wait_clientapp(self, run_id: int) -> dict[str, Any]:
        """Wait until the run's ClientApp has said hello; give its proc.json."""

        def said_hello() -> list[Path]:
            outputs = [each / "output.log" for each in self.clientapps(run_id)]  # the folder is there before it
            return [each.parent for each in outputs if each.exists() and "client says hello" in each.read_text()]

        folder = wait_for(f"a ClientApp of {self.name} is at work", said_hello)[0]
        return dict(json.loads((folder / "proc.json").read_text()))


class Stack:
    """SuperLink, executor and nodes in one folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port, self.public_port = free_port(), free_port()
        self.ca, self.server_key, self.server_certificate = make_certificates(home)
        self.secret = home / "superexec.secret"
        self.secret.write_bytes(os.urandom(32))
        self.runs_dir = home / "runs"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.superlink: subprocess.Popen[bytes] | None = None
        self.executor: subprocess.Popen[bytes] | None = None
        self.nodes: list[Node] = []
        self.superlink_log, self.executor_log = home / "superlink.log", home / "executor.log"
        self.fab = self._build_fab()
        self.http = httpx.Client(verify=ssl.create_default_context(cafile=str(self.ca)))
        self.control = ControlHttpClient.from_server_address(f"127.0.0.1:{self.port}", False, self.ca.read_bytes(), [])

    def spawn(self, log: Path, what: str | Path, *arguments: object) -> subprocess.Popen[bytes]:
        """Start one of our modules, or a script, in a group of its own."""
        secrets = {"DATABASE_URL": "postgres://u:pw@h/d", "ADMIN_TOKEN": "t0ps3cret", "SUPABASE_KEY": "k3y", "AWS_SECRET": "x"}
        environment = {**os.environ, **secrets, "FLWR_HOME": str(log.parent / "flwr-home")}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    *([str(what)] if isinstance(what, Path) else ["-m", f"flower_runtime.{what}"]),
                    *map(str, arguments),
                ],
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_superlink(self, what: str | Path = "superlink", *first: object) -> None:
        self.superlink = self.spawn(
            self.superlink_log,
            what,
            *first,
            *("--listen", f"127.0.0.1:{self.port}", "--public", f"0.0.0.0:{self.public_port}", "--"),
            *("--ssl-ca-certfile", self.ca, "--ssl-certfile", self.server_certificate, "--ssl-keyfile", self.server_key),
            *("--enable-supernode-auth", "--superexec-auth-secret-file", self.secret, "--isolation", "process"),
            *("--database", self.home / "superlink.db", "--disable-runtime-dependency-installation"),
        )
        wait_for("SuperLink answers", lambda: self.get("/health") == 200)

    def start_executor(self) -> None:
        self.executor_log.touch()
        offset = self.executor_log.stat().st_size
        self.executor = self.spawn(
            self.executor_log,
            "executor",
            *("--runtime-api", f"127.0.0.1:{self.port}", "--root-certificates", self.ca),
            *("--superexec-auth-secret-file", self.secret, "--runs-dir", self.runs_dir),
        )
        wait_for("the executor is ready", lambda: "executor ready" in self.executor_log.read_text()[offset:])

    def start_node(self, name: str) -> Node:
        node = Node(self, name)
        self.nodes.append(node)
        node.start()
        return node

    def get(self, path: str, port: int | None = None) -> int | None:
        try:
            return self.http.get(f"https://127.0.0.1:{port or self.port}{path}").status_code
        except httpx.TransportError:
            return None

    def begin(self, behaviour: str, **config: Any) -> int:
        """Start a run of the tiny app; give its Flower run id."""
        fab = Fab(hash_str=hashlib.sha256(self.fab).hexdigest(), content=self.fab)
        overrides = user_config_to_proto({"behaviour": behaviour, **config})
        return int(self.control.StartRun(StartRunRequest(fab=fab, override_config=overrides)).run_id)

    def run(self, run_id: int) -> Any:
        return self.control.ListRuns(ListRunsRequest(run_id=run_id)).run_dict[run_id]

    def stop(self, run_id: int) -> None:
        self.control.StopRun(StopRunRequest(run_id=run_id))

    def wait_end(self, run_id: int, timeout_s: float = 60.0) -> str:
        """Wait until Flower calls the run finished; give `completed`, `failed` or `stopped`."""
        status = wait_for("the run ends", lambda: self._finished(run_id), timeout_s, every_s=0.3)
        return str(status.sub_status)

    def run_dir(self, run_id: int) -> Path:
        return self.runs_dir / str(self.run(run_id).series_id)

    def attempt(self, run_id: int) -> Path:
        return self.run_dir(run_id) / "attempts" / str(run_id)

    def replies(self, run_id: int) -> list[dict[str, Any]]:
        path = self.run_dir(run_id) / "replies.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def close(self) -> None:
        self.http.close()
        self.control.close()
        for process in reversed(self.processes):
            for number in (signal.SIGTERM, signal.SIGKILL):
                if process.poll() is None:
                    os.killpg(process.pid, number)
                    try:
                        process.wait(8)
                    except subprocess.TimeoutExpired:
                        continue
        for proc in self.home.glob("runs/*/attempts/*/proc.json"):
            if not (proc.parent / "exit.json").exists():
                pid = json.loads(proc.read_text())["pid"]
                if Path(f"/proc/{pid}").exists():
                    os.kill(pid, signal.SIGKILL)

    def _finished(self, run_id: int) -> Any:
        status = self.run(run_id).status
        return status if status.status == "finished" else None

    def _build_fab(self) -> bytes:
        app = shutil.copytree(Path(__file__).parent / "tiny_app", self.home / "tiny-app")
        with warnings.catch_warnings():  # Flower's packer uses what is deprecated elsewhere
            warnings.simplefilter("ignore", DeprecationWarning)
            return bytes(build_fab_from_disk(app))
