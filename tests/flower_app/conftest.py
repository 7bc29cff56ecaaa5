"""An in-process federation: the real ServerApp and the real ClientApp, a Grid without processes, a clock that tests own."""

import copy
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flower_app.attempt import conduct
from flower_app.client_app import app as client_app
from flower_app.journal import read_journal
from flower_app.workloads.interface import NodeEnv
from flwr.app import Context, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

RUN_ID = 7


class FakeClock:
    """Time that passes only when somebody sleeps; what is due then happens in order."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.slept: list[float] = []
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        until = self.seconds + seconds
        while self._due and min(self._due)[0] <= until:
            at, order, act = min(self._due)
            self._due.remove((at, order, act))
            self.seconds = max(self.seconds, at)
            act()
        self.seconds = until

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        self._due.append((self.seconds + seconds, next(self._order), act))


Answer = Callable[[Message, Context], Message | None]


@dataclass
class Node:
    """One simulated SuperNode: how long it takes, and how it answers (None: never)."""

    node_id: int
    config: dict[str, Any]
    delay_s: float = 1.0
    online: bool = True
    registered: str = ""
    answer: Answer = field(default=lambda message, context: client_app(message, context))
    seen: list[Message] = field(default_factory=list)


class InProcessGrid(Grid):
    """What a SuperLink does with messages, by the facts: ready ones only, each once, unknown ids get an error."""

    def __init__(self, clock: FakeClock, run_config: Mapping[str, Any]) -> None:
        self.clock, self.run_config = clock, dict(run_config)
        self.nodes: dict[int, Node] = {}
        self.pulls: list[list[str]] = []
        self.offers: list[float] = []
        self.on_push: Callable[[list[Message]], None] = lambda messages: None
        self._ready: dict[str, tuple[float, Message | None]] = {}

    def add(self, node_id: int, **node: Any) -> Node:
        config = {"partition-id": len(self.nodes), "num-partitions": 3, "node-name": f"site-{'abcdef'[len(self.nodes)]}"}
        self.nodes[node_id] = Node(node_id, config | node.pop("config", {}), **node)
        return self.nodes[node_id]

    def get_node_ids(self) -> Iterable[int]:
        self.offers.append(self.clock.seconds)
        return [node.node_id for node in self.nodes.values() if node.online]

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node.node_id, name=node.registered) for node in self.nodes.values() if node.online]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        self.on_push(messages)
        return [self._push(message) for message in messages]

    def _push(self, sent: Message) -> str:
        message = copy.deepcopy(sent)
        node = self.nodes.get(message.metadata.dst_node_id)
        if node is None or not node.online:
            return ""
        message_id = message.object_id
        message.metadata.__dict__["_message_id"] = message_id
        node.seen.append(message)
        context = Context(RUN_ID, node.node_id, node.config, RecordDict(), self.run_config)
        self._ready[message_id] = (self.clock.seconds + node.delay_s, node.answer(message, context))
        return message_id

    def lose(self, message_id: str) -> None:
        """Answer for a node that is gone, as the SuperLink does."""
        if message_id in self._ready:
            self._ready[message_id] = (self.clock.seconds, unavailable(message_id))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.pulls.append(list(message_ids))
        found = []
        for message_id in self.pulls[-1]:
            at, reply = self._ready.get(message_id, (0.0, unavailable(message_id)))
            if reply is not None and at <= self.clock.seconds:
                found.append(reply)
                self._ready.pop(message_id, None)
        return found

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise AssertionError("the engine pushes and pulls")

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise AssertionError("deprecated")

    def set_run(self, run: Any) -> None:
        raise AssertionError("not the app's")

    @property
    def run(self) -> Any:
        raise AssertionError("not needed")


def unavailable(message_id: str) -> Message:
    """Answer as the SuperLink does for an id that it does not know: error 3, from node 1."""
    asked = Message(RecordDict(), dst_node_id=1, message_type="train")
    asked.metadata.__dict__["_message_id"] = message_id
    return Message(Error(3, "Error: Message Unavailable - The requested message is not there"), reply_to=asked)


class Federation:
    """Three sites with the toy workload, and a run directory."""

    def __init__(self, root: Path, **run_config: Any) -> None:
        self.root = root
        self.clock = FakeClock()
        self.run_config: dict[str, Any] = {
            "workload": "toy_workload:Toy",
            "num-rounds": 3,
            "min-available": 3,
            **{key.replace("_", "-"): value for key, value in run_config.items()},
        }
        self.grid = InProcessGrid(self.clock, self.run_config)
        for node_id in (101, 102, 103):
            self.grid.add(node_id)

    def run(self, attempt: int = RUN_ID) -> None:
        """Run one attempt in this process, to its end or to its exception."""
        conduct(self.grid, self.run_config, attempt, {"ESPALIER_RUN_DIR": str(self.root)}, self.clock)

    def want(self, want: str, nodes: str | None = None, deaths: Mapping[str, Any] | None = None, **lost_nodes: str) -> None:
        """Write control.json as the admin server does."""
        lost = {node.removeprefix("n"): reason for node, reason in lost_nodes.items()}
        told = {"seq": 1, "want": want, "lost_nodes": lost, "deaths": deaths or {}} | ({"nodes": nodes} if nodes else {})
        scratch = self.root / "control.json.new"
        scratch.write_text(json.dumps(told))
        scratch.replace(self.root / "control.json")

    def journal(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Give the journal's records, of one kind or all."""
        return [each for each in read_journal(self.root / "journal.jsonl") if kind in (None, each["kind"])]

    def read(self, path: str) -> Any:
        """Give a JSON file of the run directory."""
        return json.loads((self.root / path).read_text())


MakeFederation = Callable[..., Federation]
MakeEnv = Callable[..., NodeEnv]


@pytest.fixture(autouse=True)
def task_identity() -> None:
    """Message() refuses to be built outside a task; the server's node id is 1."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


@pytest.fixture(autouse=True)
def toy_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run config name the test's own workload, as a FAB names one of its own."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def no_charts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw only where a test is about drawing: matplotlib takes a second to come."""
    if "real_chart" not in request.fixturenames:
        monkeypatch.setattr("flower_app.chart.painted", lambda title, history: b"not drawn in this test")


@pytest.fixture
def real_chart() -> None:
    """Ask for the real chart."""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread, which gives the same bits on any machine and leaves the others their cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_env() -> MakeEnv:
    """Make the surroundings of a workload at one of three sites."""

    def make(partition_id: int = 0, **values: Any) -> NodeEnv:
        defaults = {
            "node_name": "a", "num_partitions": 3, "round": 1, "seed": 5, "threads": 1, "device": "cpu", "cache_dir": None,
        }  # fmt: skip
        return NodeEnv(**{"partition_id": partition_id, **defaults, **values})

    return make


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """Three sites, three rounds."""
    root = tmp_path / "run"
    root.mkdir()
    return Federation(root)


@pytest.fixture
def make_federation(tmp_path: Path) -> MakeFederation:
    """Make a federation with run-config keys of one's own, `name=` giving its run directory."""

    def make(name: str = "run", **run_config: Any) -> Federation:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        return Federation(root, **run_config)

    return make
