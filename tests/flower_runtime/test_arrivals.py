"""Replies that arrive piece by piece, at Flower's own Grid and client over a SuperLink made of a dictionary."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flower_runtime.arrivals import Arrivals
from flower_runtime.patch import original
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity

GRID, CLIENT = "flwr.superlink.grid.http_grid", "flwr.supercore.runtime"


class Link(original(CLIENT, "RuntimeHttpClient")):  # type: ignore[misc]
    """Gives out each head once, and of the objects what is there."""

    def __init__(self) -> None:
        self.heads: dict[str, Message] = {}
        self.known: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []

    def receive(self, reply: Message) -> dict[str, bytes]:
        """Take a reply's head; gives its objects in the order in which a node sends them."""
        reply.metadata.__dict__["_message_id"] = reply.object_id
        self.heads[reply.metadata.reply_to_message_id] = reply
        contents = {object_id: each.deflate() for object_id, each in get_all_nested_objects(reply).items()}
        self.known |= contents.keys()
        return contents

    def _unary_unary(self, *, path: str, request: Any, response_type: Any, **_: Any) -> Any:
        if path.endswith("pull-messages"):
            heads = [self.heads.pop(each) for each in request.message_ids if each in self.heads]
            trees = [get_object_tree(head) for head in heads]
            return response_type(messages_list=[message_to_proto(head) for head in heads], message_object_trees=trees)
        if path.endswith("pull-object"):
            self.asked.append(request.object_id)
            content = self.objects.get(request.object_id)
            found = request.object_id in self.known
            return response_type(object_found=found, object_available=content is not None, object_content=content or b"")
        return response_type()


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def grid(link: Link, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Flower's Grid, with Arrivals in it for the length of a test."""
    grid, client = original(GRID, "HttpGrid"), original(CLIENT, "RuntimeHttpClient")
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 7
    monkeypatch.setattr(grid, "pull_messages", grid.pull_messages)
    monkeypatch.setattr(client, "PullMessages", client.PullMessages)
    monkeypatch.setattr(f"{GRID}.pull_objects", original(GRID, "pull_objects"))
    Arrivals().install()
    found = grid("127.0.0.1:1", insecure=True, token="a token")
    found._client, found._run = link, SimpleNamespace(run_id=7)
    return found


def reply_to(message_id: str) -> Message:
    asked = Message(RecordDict(), dst_node_id=5, message_type="train")
    asked.metadata.__dict__["_message_id"] = message_id
    arrays = ArrayRecord({name: Array(np.full(3, len(message_id), np.float32)) for name in ("a", "b")})
    return Message(RecordDict({message_id: arrays}), reply_to=asked)


def test_a_reply_is_given_once_it_is_whole_and_holds_up_no_other(grid: Any, link: Link) -> None:
    slow, quick = link.receive(reply_to("slow")), link.receive(reply_to("quick!"))
    link.objects |= quick
    began = time.monotonic()
    (first,) = grid.pull_messages(["slow", "quick!", "silent"])
    assert first.metadata.reply_to_message_id == "quick!"
    assert grid.pull_messages(["slow", "silent"]) == []
    assert time.monotonic() - began < 0.2, "nobody waited"
    link.objects |= slow
    time.sleep(0.2)
    (second,) = grid.pull_messages(["slow", "silent"])
    assert second.metadata.reply_to_message_id == "slow"
    assert second.content["slow"]["b"].numpy().tolist() == [4, 4, 4]
    assert grid.pull_messages(["slow", "silent"]) == []


def test_what_was_missing_is_asked_for_before_anything_else(grid: Any, link: Link) -> None:
    contents = link.receive(reply_to("slow"))
    *others, last = contents
    assert grid.pull_messages(["slow"]) == []
    assert link.asked == [last]
    link.objects[last] = contents[last]
    time.sleep(0.2)
    link.asked.clear()
    assert grid.pull_messages(["slow"]) == []
    missing = link.asked[-1]
    assert (link.asked[0], missing in others) == (last, True)
    time.sleep(0.4)
    link.asked.clear()
    assert grid.pull_messages(["slow"]) == []
    assert link.asked == [missing]


def test_a_reply_that_superlink_has_forgotten_is_an_error(grid: Any, link: Link) -> None:
    link.receive(reply_to("dead"))
    assert grid.pull_messages(["dead"]) == []
    link.known.clear()
    time.sleep(0.2)
    (error,) = grid.pull_messages(["dead"])
    assert error.metadata.reply_to_message_id == "dead"
    assert "Reply message objects are unavailable" in error.error.reason
