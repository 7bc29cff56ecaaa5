"""What the tests of flower_runtime share: stacks of real processes, one for each module, and a node's state."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

with warnings.catch_warnings():  # Flower's command line library warns when it is imported first
    warnings.simplefilter("ignore", DeprecationWarning)
    import flwr.cli.build  # noqa: F401

from flwr.supercore import heartbeat
from flwr.supercore.retry import http_retry
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import fleet_http_client, fleet_http_connection, start_client_internal
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from tests.flower_runtime.node_state import NodeState
from tests.flower_runtime.stack import Stack


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> NodeState:
    """Give a handover that is built into Flower, and an empty node state. Flower is as before afterwards."""
    for owner, name in [
        (start_client_internal, "time"),
        (start_client_internal, "pull_objects"),
        (start_client_internal, "http_request_response"),
        (start_client_internal, "_push_messages"),
        (fleet_http_connection, "HeartbeatSender"),
        (http_retry, "MAX_RETRY_DELAY"),
        (heartbeat, "exponential"),
        (fleet_http_client.FleetHttpClient, "PushObject"),
        (InMemoryNodeState, "store_message"),
        (InMemoryNodeState, "get_messages_legacy"),
    ]:
        monkeypatch.setattr(owner, name, getattr(owner, name))
    for name, value in {"_run_id": NodeState.RUN, "_node_id": NodeState.NODE, "_task_id": 1}.items():
        monkeypatch.setattr(TaskIdentity, name, value)
    return NodeState()


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
