"""A Store on each of the doors, a project with a node, and a run with a journal to write."""

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from typing import Any

import pytest

from db.door import Row
from db.postgres_door import PostgresDoor
from db.store import Store
from db.supabase_door import SupabaseDoor
from tests.db import hosted, lite

AT = "2026-11-22T08:00:00.000Z"
BIG = "18446744073709551615"  # the largest uint64: what must never become a bigint or a float on its way


def sha(text: str) -> str:
    """Give a sha256 to stand for a secret."""
    return hashlib.sha256(text.encode()).hexdigest()


AnyDoor = PostgresDoor | SupabaseDoor
WAYS_IN = ["postgres", "supabase", *(["hosted"] if hosted.URL in os.environ else [])]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make every test of what a door does a test of each door, unless it is marked as one_door."""
    if "new_door" in metafunc.fixturenames and not list(metafunc.definition.iter_markers("one_door")):
        metafunc.parametrize("way_in", WAYS_IN)


@pytest.fixture
def way_in() -> str:
    """Say which door this test is about: the first, where it asks for none."""
    return "postgres"


@pytest.fixture(scope="session")
def supabase_database(postgres_server: str, lite_server: lite.Lite) -> str:
    """Make the one database that every test of the Supabase door gets emptied (30 ms; lite reads a new one for 400 ms)."""
    return lite.prepare(postgres_server, "supabase")


@pytest.fixture(scope="session")
def hosted_project() -> Iterator[None]:
    """Take the hosted project for the whole session."""
    with hosted.claimed():
        yield


@pytest.fixture
def database_url(way_in: str, request: pytest.FixtureRequest) -> str:
    """Give the DSN of a database without rows, for what tests do behind a door's back."""
    if way_in == "postgres":
        return str(request.getfixturevalue("fresh_database_url"))
    if way_in == "hosted":
        if hosted.asks_for_sql(request):
            pytest.skip("a hosted project gives this test no SQL connection")
        request.getfixturevalue("hosted_project")
        hosted.empty()
        return ""
    dsn = str(request.getfixturevalue("supabase_database"))
    lite.empty(dsn)
    return dsn


@pytest.fixture
async def new_door(way_in: str, database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., AnyDoor]]:
    """Make doors to it, with options of their own."""
    made: list[AnyDoor] = []

    def new_door(**options: Any) -> AnyDoor:
        if way_in == "postgres":
            made.append(PostgresDoor(database_url, **options))
        elif way_in == "supabase":
            server: lite.Lite = request.getfixturevalue("lite_server")
            made.append(SupabaseDoor(server.url_of("supabase"), server.secret_key, **options))
        else:
            made.append(SupabaseDoor(os.environ[hosted.URL], os.environ[hosted.KEY], **options))
        return made[-1]

    yield new_door
    for door in made:
        await door.close()


@pytest.fixture
async def door(new_door: Callable[..., AnyDoor]) -> AnyDoor:
    """Open a door to it."""
    door = new_door()
    await door.open()
    return door


@pytest.fixture
def store(door: AnyDoor) -> Store:
    """Give a Store on the door."""
    return Store(door)


@pytest.fixture
async def project(store: Store) -> Row:
    """Open a project."""
    return await store.open_project("fed-project", "Federated Project", "coordinator", "Coordinator")


@pytest.fixture
def enrol(store: Store, project: Row) -> Callable[..., Awaitable[Row]]:
    """Enrol nodes by invitation, with a Flower id."""
    numbers = count(1)

    async def enrol(external_id: str, flower_node_id: str | None = None) -> Row:
        number = next(numbers)
        await store.create_invitation(project["id"], sha(f"invitation {number}"), external_id, 60)
        secret, token = sha(f"invitation {number}"), sha(f"node token {number}")
        return await store.redeem_invitation(secret, external_id, f"Site {external_id}", "ecdsa key", flower_node_id, token)

    return enrol


@pytest.fixture
async def node(enrol: Callable[..., Awaitable[Row]]) -> Row:
    """Enrol one node, whose Flower id is the largest uint64."""
    return await enrol("site-a", BIG)


@pytest.fixture
async def run(store: Store, project: Row) -> Row:
    """Begin a run, with a first attempt 77 of the series 9."""
    run = await store.begin_run(project["id"], "flower-app", sha("fab"), {"lr": 0.1}, "first", "rest")
    await store.begin_attempt(run["id"], "77", "9")
    return run


class Journal:
    """Writes records as the round engine does."""

    def __init__(self, attempt: str = "77") -> None:
        self.attempt = attempt
        self.records: list[dict[str, Any]] = []

    def add(self, kind: str, **fields: Any) -> "Journal":
        """Add a record with the next seq."""
        seq = len(self.records) + 1
        at = f"2026-11-22T08:{seq // 60:02}:{seq % 60:02}.000Z"
        self.records.append({"seq": seq, "at": at, "attempt": self.attempt, "kind": kind} | fields)
        return self

    def opened(self, num_rounds: int = 3, resumed_after: int = 0, initial_model: str | None = None) -> "Journal":
        """Open the run."""
        return self.add(
            "run.opened",
            workload="digits",
            strategy="fedavg",
            num_rounds=num_rounds,
            seed=42,
            min_available=1,
            resumed_after=resumed_after,
            initial_model=initial_model,
            model={"parameters": 10, "size_bytes": 40},
            config={"lr": 0.1},
        )

    def round_opened(self, round: int, *nodes: str) -> "Journal":
        """Open a round."""
        return self.add("round.opened", round=round, nodes=list(nodes), needed=len(nodes))

    def waiting(self, round: int, available: int) -> "Journal":
        """Say that a round waits for nodes."""
        return self.add("round.waiting", round=round, available=available, wanted=3, until=AT)

    def scored(self, round: int, **metrics: float) -> "Journal":
        """Say what sites scored a round's model."""
        return self.add("round.scored", round=round, expected=2, counted=1, metrics=metrics)

    def update(self, round: int, node_id: str, status: str = "counted", **fields: Any) -> "Journal":
        """Say what became of a node's message."""
        values = {
            "update_kind": "train",
            "wave": 0,
            "message_id": f"m{round}-{node_id}",
            "num_examples": 10,
            "metrics": {"loss": 1.5},
            "bytes_down": 100,
            "bytes_up": 90,
            "timings": {"total_s": 1.0},
            "facts": {"node_name": "as it says"},
            "cause": None,
        }
        return self.add("update", round=round, node_id=node_id, status=status, **(values | fields))

    def round_closed(self, round: int, counted: int = 1, **fields: Any) -> "Journal":
        """Commit a round."""
        values = {
            "expected": counted,
            "num_examples": 10 * counted,
            "metrics": {"loss": 1.5, "accuracy": 0.5},
            "server_metrics": {"accuracy": 0.9},
            "seconds": 2.5,
            "aggregate_s": 0.1,
            "bytes_down": 100,
            "bytes_up": 90,
            "commit": {"file": f"commit/round-{round}.safetensors", "sha256": sha(f"round {round}"), "size_bytes": 40},
        }
        return self.add("round.closed", round=round, counted=counted, **(values | fields))

    def whole_round(self, round: int, *nodes: str) -> "Journal":
        """Open a round, count every node, close it."""
        self.round_opened(round, *nodes)
        for node in nodes:
            self.update(round, node)
        return self.round_closed(round, len(nodes))

    def artifact(self, path: str = "models/final.safetensors", **fields: Any) -> "Journal":
        """Keep a file."""
        values = {"name": "final", "role": "final", "sha256": sha(path), "size_bytes": 40, "format": "safetensors", "round": 1}
        return self.add("artifact", path=path, **{**values, "parents": [], "score": None, **fields})

    def removed(self, path: str, round: int = 1) -> "Journal":
        """Let a checkpoint go."""
        return self.add("artifact.removed", name="round", role="checkpoint", path=path, sha256=sha(path), round=round)

    def closed(self, status: str = "completed", cause: dict[str, Any] | None = None) -> "Journal":
        """End the run."""
        return self.add("run.closed", status=status, last_round=1, cause=cause)


@pytest.fixture
def journal() -> Journal:
    """Give an empty journal of the attempt 77."""
    return Journal()


@pytest.fixture
def new_journal() -> Callable[[str], Journal]:
    """Make journals of other attempts."""
    return Journal
