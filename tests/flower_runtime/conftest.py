"""A stack of Flower processes as Espalier starts them: TLS, node keys, our launchers; one for each module that asks."""

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from flower_runtime.handover import Handover

with warnings.catch_warnings():  # Flower's command line library warns on import
    warnings.simplefilter("ignore", DeprecationWarning)
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.cli.build import build_fab_from_disk
    from flwr.common.serde import user_config_to_proto
    from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest, StopRunRequest
    from flwr.proto.fab_pb2 import Fab
    from flwr.supercore import heartbeat
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.inflatable.inflatable_object import get_object_tree
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supercore.retry import http_retry
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

T = TypeVar("T")

APP = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "tiny"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr"]
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "tiny.server_app:app"
clientapp = "tiny.client_app:app"
[tool.flwr.app.config]
rounds = 1
behaviour = "echo"
wait = 60.0
""",
    "tiny/__init__.py": "",
    "tiny/server_app.py": """
import json, os, pathlib, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    config = context.run_config
    run_dir = pathlib.Path(os.environ["ESPALIER_RUN_DIR"])
    (run_dir / "environment.json").write_text(json.dumps(dict(os.environ)))
    print("server says hello", flush=True)
    os.write(1, b"native code says hello\\n")
    if config["behaviour"] == "server-raises":
        raise ValueError("the server has a bad day")
    seconds = []
    for number in range(1, config["rounds"] + 1):
        begin = time.monotonic()
        nodes = list(grid.get_node_ids())
        record = RecordDict({"config": ConfigRecord({"round": number, "behaviour": config["behaviour"]})})
        sent = grid.push_messages([Message(record, dst_node_id=n, message_type="train", group_id=str(number)) for n in nodes])
        open_ids, deadline = set(sent), time.monotonic() + config["wait"]
        while open_ids and time.monotonic() < deadline:
            for reply in grid.pull_messages(list(open_ids)):
                open_ids.discard(reply.metadata.reply_to_message_id)
                error = {"code": reply.error.code, "reason": reply.error.reason} if reply.has_error() else None
                line = {"round": number, "at": time.time(), "error": error, "node": str(reply.metadata.src_node_id)}
                with open(run_dir / "replies.jsonl", "a") as file:
                    file.write(json.dumps(line) + "\\n")
            time.sleep(0.1)
        seconds.append(time.monotonic() - begin)
        (run_dir / "rounds.json").write_text(json.dumps(seconds))
""",
    "tiny/client_app.py": """
import json, os, pathlib, signal, subprocess, sys, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
cache = pathlib.Path(os.environ["ESPALIER_CACHE_DIR"])


@app.train()
def train(message, context):
    behaviours = message.content["config"]["behaviour"].split("+")  # of site-a, of site-b
    behaviour = behaviours[0 if context.node_config["name"] == "site-a" else -1]
    (cache / "environment.json").write_text(json.dumps(dict(os.environ)))
    print("client says hello", flush=True)
    if behaviour == "exit":
        print("last words", flush=True)
        os._exit(3)
    if behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "terminated":
        os.kill(os.getpid(), signal.SIGTERM)
    if behaviour == "raises":
        raise KeyError("no such column")
    if behaviour == "slow":
        time.sleep(1.0)
    if behaviour == "sleeps":
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (cache / "helper.pid").write_text(str(helper.pid))
        time.sleep(600)
    if behaviour == "busy":
        while True:
            sum(range(1000))
    return Message(RecordDict({"config": ConfigRecord({"round": message.content["config"]["round"]})}), reply_to=message)
""",
}


def wait_for(what: str, probe: Callable[[], T], timeout_s: float = 40.0, every_s: float = 0.1) -> T:
    """Look until the probe gives something true; fail with a sentence after the time."""
    deadline = time.monotonic() + timeout_s
    while not (found := probe()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(every_s)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Make a node's key file; give its public key."""
    private = ec.generate_private_key(ec.SECP384R1())
    openssh = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    path.write_bytes(private.private_bytes(*openssh))
    return private.public_key()


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
            return [each for each in self.clientapps(run_id) if "client says hello" in (each / "output.log").read_text()]

        folder = wait_for(f"a ClientApp of {self.name} is at work", said_hello)[0]
        return dict(json.loads((folder / "proc.json").read_text()))


class NodeState:
    """Flower's own node state with our handover built in, and no process and no network about it."""

    RUN, NODE = 11, 22

    def __init__(self) -> None:
        self.handover = Handover()
        self.handover.install()
        self.state = InMemoryNodeState(ObjectStoreFactory().store())
        self.state.set_node_id(self.NODE)

    def arrive(self, text: str) -> Any:
        """Do with a message what Flower's loop does: make its task, register its objects, store it."""
        content = RecordDict({"config": ConfigRecord({"text": text})})
        message = Message(content, dst_node_id=self.NODE, message_type="train")
        message.metadata.__dict__["_message_id"] = message.object_id
        self.state.create_task(task_type="flwr-clientapp", run_id=self.RUN, fab_hash="f" * 64)
        self.state.object_store.preregister(self.RUN, get_object_tree(message))
        self.state.store_message(message)
        return message


class Stack:
    """SuperLink, executor and nodes in one folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port, self.public_port = free_port(), free_port()
        self.ca, self.server_key, self.server_certificate = _make_certificates(home)
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

    def spawn(self, log: Path, module: str, *arguments: object) -> subprocess.Popen[bytes]:
        secrets = {"DATABASE_URL": "postgres://u:pw@h/d", "ADMIN_TOKEN": "t0ps3cret", "SUPABASE_KEY": "k3y", "AWS_SECRET": "x"}
        environment = {**os.environ, **secrets, "FLWR_HOME": str(log.parent / "flwr-home")}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"flower_runtime.{module}", *map(str, arguments)],
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_superlink(self) -> None:
        self.superlink = self.spawn(
            self.superlink_log,
            "superlink",
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
        for name, text in APP.items():
            path = self.home / "tiny-app" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with warnings.catch_warnings():  # so does its packer
            warnings.simplefilter("ignore", DeprecationWarning)
            return bytes(build_fab_from_disk(self.home / "tiny-app"))


class WaitFor(Protocol):
    """The type of wait_for, which tests get as a fixture."""

    def __call__(self, what: str, probe: Callable[[], T], timeout_s: float = 40.0) -> T: ...


@pytest.fixture(name="wait_for")
def wait_for_fixture() -> WaitFor:
    """Give wait_for: tests cannot import from here."""
    return wait_for


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> NodeState:
    """Give a handover that is built into Flower, and an empty node state. Flower is as before afterwards."""
    for owner, name in [
        (start_client_internal, "time"),
        (start_client_internal, "pull_objects"),
        (start_client_internal, "http_request_response"),
        (fleet_http_connection, "HeartbeatSender"),
        (http_retry, "MAX_RETRY_DELAY"),
        (heartbeat, "exponential"),
        (InMemoryNodeState, "store_message"),
    ]:
        monkeypatch.setattr(owner, name, getattr(owner, name))
    for name, value in {"_run_id": NodeState.RUN, "_node_id": NodeState.NODE, "_task_id": 1}.items():
        monkeypatch.setattr(TaskIdentity, name, value)
    return NodeState()


@pytest.fixture
def strange_key(tmp_path: Path) -> Path:
    """Give a key that no SuperLink knows."""
    write_key(tmp_path / "strange.key")
    return tmp_path / "strange.key"


@pytest.fixture
def free_ports() -> tuple[int, int]:
    """Give two ports of 127.0.0.1 that nobody listens on."""
    return free_port(), free_port()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Give a SuperLink, an executor and two nodes, all running."""
    yield from _started(tmp_path_factory.mktemp("stack"), "site-a", "site-b")


@pytest.fixture(scope="module")
def small_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Give a SuperLink, an executor and one node, all running."""
    yield from _started(tmp_path_factory.mktemp("stack"), "site-a")


def _started(home: Path, *nodes: str) -> Iterator[Stack]:
    stack = Stack(home)
    try:
        stack.start_superlink()
        stack.start_executor()
        for name in nodes:
            stack.start_node(name)
        yield stack
    finally:
        stack.close()


def _make_certificates(home: Path) -> tuple[Path, Path, Path]:
    """Make a CA and a server certificate for 127.0.0.1; give the paths of ca.crt, server.key, server.crt."""
    ca_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "superlink")])
    now = datetime.now(UTC)

    def builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number())
        return made.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))

    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    usage |= {"digital_signature": False, "encipher_only": False, "decipher_only": False}
    ca = builder(ca_name, ca_key).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    ca = ca.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    server = builder(server_name, server_key).add_extension(x509.SubjectAlternativeName(names), critical=False)
    server = server.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    paths = home / "ca.crt", home / "server.key", home / "server.crt"
    paths[0].write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    pkcs8 = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths[1].write_bytes(server_key.private_bytes(*pkcs8))
    paths[2].write_bytes(server.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return paths
