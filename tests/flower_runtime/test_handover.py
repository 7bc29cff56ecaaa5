"""The meeting of Flower's loop and our supervision, on Flower's own node state, without processes."""

from typing import Any

import pytest
from flower_runtime.handover import ClientAppTask, Handover
from flower_runtime.patch import original

from tests.flower_runtime.node_state import NodeState

RUN = 11

OBJECTS = "flwr.supercore.inflatable.inflatable_object"


def _reply(message: Any) -> Any:
    from flwr.app import ConfigRecord, Message, RecordDict

    reply = Message(RecordDict({"config": ConfigRecord({"text": "reply"})}), reply_to=message)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    return reply


def _upload(state: Any, reply: Any, *, whole: bool) -> None:
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

    state.object_store.preregister(RUN, get_object_tree(reply))
    state.store_message(reply)
    if whole:
        for object_id, each in get_all_nested_objects(reply).items():
            state.object_store.put(object_id, each.deflate())


def _take(handover: Handover, state: Any) -> ClientAppTask:
    """Acquire the task, and pull its message as a ClientApp does."""
    task = handover.acquire()
    assert task is not None
    state.get_messages_legacy(run_ids=[RUN], is_reply=False, limit=1)
    return task


def test_a_stored_message_is_handed_out_once(node: NodeState) -> None:
    handover = node.handover
    assert handover.acquire() is None
    message = node.arrive("work")
    assert handover.message_stored.is_set()
    task = handover.acquire()
    assert task is not None
    assert (task.run_id, task.message_id) == (RUN, message.metadata.message_id)
    assert task.token not in repr(task)
    assert handover.acquire() is None


def test_a_task_whose_message_is_not_stored_yet_waits(node: NodeState) -> None:
    handover, state = node.handover, node.state
    node.arrive("first")
    first = _take(handover, state)
    handover.finish(first, "exit code 3")
    state.create_task(task_type="flwr-clientapp", run_id=RUN, fab_hash="f" * 64)
    assert handover.acquire() is None


@pytest.mark.parametrize("pulled", [True, False])
def test_a_dead_clientapp_is_answered_for_whether_it_took_its_message_or_not(node: NodeState, pulled: bool) -> None:
    handover, state = node.handover, node.state
    message = node.arrive("work")
    task = _take(handover, state) if pulled else handover.acquire()
    assert task is not None
    handover.finish(task, "killed by signal 9 (SIGKILL)")
    (reply,) = state.get_messages_legacy(is_reply=True)
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    assert (reply.error.code, reply.error.reason) == (8, "killed by signal 9 (SIGKILL)")


def test_a_reply_that_is_half_uploaded_becomes_an_error(node: NodeState) -> None:
    handover, state = node.handover, node.state
    message = node.arrive("work")
    task = _take(handover, state)
    half = _reply(message)
    _upload(state, half, whole=False)
    assert not handover.has_reply(task)
    handover.finish(task, "killed by signal 9 (SIGKILL)")
    (reply,) = state.get_messages_legacy(is_reply=True)
    assert reply.error.code == 8
    assert half.metadata.message_id not in state.object_store


def test_the_loop_takes_a_reply_when_it_is_whole(node: NodeState) -> None:
    state = node.state
    message = node.arrive("work")
    _take(node.handover, state)
    reply = _reply(message)
    _upload(state, reply, whole=False)
    assert state.get_messages_legacy(is_reply=True) == [], "else SuperLink has the head of a reply whose ClientApp may die"
    _upload(state, reply, whole=True)
    assert state.get_messages_legacy(is_reply=True) == [reply]


def test_a_reply_that_flower_forgot_half_way_becomes_an_error(node: NodeState) -> None:
    handover, state = node.handover, node.state
    message = node.arrive("work")
    task = _take(handover, state)
    half = _reply(message)
    _upload(state, half, whole=False)
    state._on_push_session_expired({half.metadata.message_id})  # its ClientApp stood still for three minutes
    state.object_store.delete(half.metadata.message_id)
    assert not handover.has_reply(task)
    handover.finish(task, "exit code 1")
    (reply,) = state.get_messages_legacy(is_reply=True)
    assert reply.error.reason == "exit code 1"


def test_a_message_that_the_loop_gave_up_is_not_taken_for_answered(node: NodeState) -> None:
    message = node.arrive("its objects cannot be pulled")
    task = _take(node.handover, node.state)
    node.state.delete_messages(message_ids=[message.metadata.message_id])
    assert not node.handover.has_reply(task), "its ClientApp died, and did not end well"


def test_a_reply_that_the_loop_has_taken_is_left_to_it(node: NodeState) -> None:
    handover, state = node.handover, node.state
    message = node.arrive("work")
    task = _take(handover, state)
    reply = _reply(message)
    _upload(state, reply, whole=True)
    assert state.get_messages_legacy(is_reply=True) == [reply]
    handover.finish(task, "exit code 0")
    assert reply.metadata.message_id in state.object_store, "the loop is about to push it"
    assert state.get_messages_legacy(is_reply=True) == []


def test_a_clientapp_that_ends_late_leaves_the_next_message_alone(node: NodeState) -> None:
    handover, state = node.handover, node.state
    first = node.arrive("first")
    slow = _take(handover, state)
    _upload(state, _reply(first), whole=True)
    assert handover.has_reply(slow)
    state.get_messages_legacy(is_reply=True)
    second = node.arrive("second")
    next_task = handover.acquire()
    assert next_task is not None
    handover.finish(slow, "exit code 0")
    assert state.get_messages_legacy(is_reply=True) == []
    (waiting,) = state.get_messages_legacy(run_ids=[RUN], is_reply=False)
    assert waiting.metadata.message_id == next_task.message_id == second.metadata.message_id


def test_an_answer_to_an_ignored_message_is_not_pushed_in_place_of_the_next_ones(node: NodeState) -> None:
    from flwr.supernode import start_client_internal

    handover, state = node.handover, node.state
    node.arrive("its run ends while it is pulled")  # the loop ignores it, and asks for the next one
    ignored = handover.acquire()
    assert ignored is not None
    handover.finish(ignored, "killed by signal 9 (SIGKILL): its run is over")
    second = node.arrive("second")
    task = _take(handover, state)
    sent: list[str] = []

    def send(message: Any, *_rest: Any) -> tuple[set[str], str]:
        sent.append(message.metadata.reply_to_message_id)
        if len(sent) == 1:  # the second message's ClientApp replies only now
            _upload(state, _reply(second), whole=True)
        return set(), "session"

    start_client_internal._push_messages(state=state, object_store=state.object_store, send=send, push_object=lambda *_all: None)
    assert sent == [ignored.message_id, task.message_id]
    assert not state.msg_store


def test_a_finished_task_is_not_taken_for_crashed_later(node: NodeState) -> None:
    handover, state = node.handover, node.state
    message = node.arrive("work")
    task = _take(handover, state)
    _upload(state, _reply(message), whole=True)
    handover.finish(task, "killed by signal 9 (SIGKILL)")
    assert state.get_tasks(task_ids=[task.task_id])[0].status.status == "finished"
    assert state.get_task_by_token(task.token) is None


def test_an_answer_that_nobody_fetched_does_not_stand_in_for_the_next_messages(node: NodeState) -> None:
    handover, state = node.handover, node.state
    stopped = node.arrive("stopped")
    task = _take(handover, state)
    handover.finish(task, "killed by signal 9 (SIGKILL): its run is over")
    state.delete_messages(message_ids=[stopped.metadata.message_id])  # as the loop does when it cannot pull the objects
    second = node.arrive("second")
    _take(handover, state)
    sent: list[str] = []

    def send(reply: Any, *_: object) -> tuple[set[str], str]:
        sent.append(reply.metadata.reply_to_message_id)
        if len(sent) == 1:
            _upload(state, _reply(second), whole=True)  # the ClientApp replies after the loop has pushed once
        return set(), "session"

    push_messages = original("flwr.supernode.start_client_internal", "_push_messages")
    push_messages(state=state, object_store=state.object_store, send=send, push_object=None)
    assert sent == [stopped.metadata.message_id, second.metadata.message_id]


def test_a_task_is_kept_while_its_process_lives(node: NodeState) -> None:
    node.arrive("work")
    task = node.handover.acquire()
    assert task is not None
    before = node.state.task_token_store[task.task_id].active_until
    node.handover.keep(task)
    assert node.state.task_token_store[task.task_id].active_until > before
