"""Where a SuperNode's loop and our supervision of its ClientApps meet: the one module that reaches into a running node.

Flower's loop pulls a message, stores it, waits for a reply, pushes the reply. What it replaces by sleeping (3 s when idle,
0.5 s for a reply) and by asking (a SuperExec that polls each second) is an event here. The names stand in selfcheck.py.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from flower_runtime.patch import ask_objects_soon, log_plainly, original, replace, retry_soon, take_stored_for_pushed

_LOOP = "flwr.supernode.start_client_internal"
_NODE_STATE = "flwr.supernode.nodestate.in_memory_nodestate"
_FLEET, _CLIENT = "flwr.supernode.fleet_http_connection", "flwr.supernode.fleet_http_client"
# How often SuperLink is asked for messages. A node that has had one lately is in the middle of a run.
_ACTIVE_POLL_S, _IDLE_POLL_S, _ACTIVE_FOR_S = 0.25, 1.0, 60.0


@dataclass(frozen=True)
class ClientAppTask:
    """A message that is ours to work on."""

    task_id: int
    run_id: int
    message_id: str
    token: str = field(repr=False)


class Handover:
    """Hands stored messages to us and our answers to the loop. Thread-safe; one message at a time, as Flower's loop is."""

    def __init__(self) -> None:
        self.message_stored = threading.Event()
        self._reply_stored = threading.Event()
        self._connected = threading.Event()
        self._state: Any = None
        self._get_run: Any = None
        self._message_at = float("-inf")
        self._at_work = ""
        self._reply_of: dict[str, str] = {}
        self._taking = threading.Lock()

    def install(self) -> None:
        """Put our events into Flower's loop. Once, before flower_supernode()."""
        log_plainly()
        retry_soon()
        take_stored_for_pushed(original(_CLIENT, "FleetHttpClient"))
        ask_objects_soon(_LOOP, "pull_objects")
        replace(_LOOP, "time", SimpleNamespace(**{**vars(time), "sleep": self._sleep}))
        self._see_messages()
        self._send_what_is_whole()
        self._see_connection()
        self._push_until_answered()
        _survive_failed_heartbeats()

    def wait_connected(self) -> None:
        """Wait until SuperLink has accepted this node."""
        self._connected.wait()

    def acquire(self) -> ClientAppTask | None:
        """Take the message that waits; None when none does."""
        waiting = self._waiting_messages()
        if not waiting:
            return None
        task_types = original("flwr.supercore.constant", "TaskType")
        request = original("flwr.proto.runtime_pb2", "AcquireTaskRequest")(supported_task_types=[task_types.CLIENT_APP])
        taken = original("flwr.supercore.servicer.runtime.runtime_handlers", "acquire_task")(request, self._state)
        if not taken.HasField("task") or not taken.token:
            return None
        message_id = waiting[taken.task.run_id]
        self._state.record_message_processing_start(message_id)  # a ClientApp that dies early leaves no start time
        return ClientAppTask(taken.task.task_id, taken.task.run_id, message_id, taken.token)

    def keep(self, task: ClientAppTask) -> None:
        """Keep a task ours while its process lives, also when a long call in C stops the ClientApp's own heartbeats."""
        self._state.acknowledge_task_heartbeat(task.task_id)

    def has_reply(self, task: ClientAppTask) -> bool:
        """Has the ClientApp replied, whole?"""
        return self._is_sent(task.message_id) or self._is_whole(self._reply_of.get(task.message_id))

    def finish(self, task: ClientAppTask, failure: str) -> None:
        """Close a task whose process has ended: answer with an Error of this text unless the ClientApp replied, whole.

        Without the close Flower would take the task for crashed a minute later and answer for the message after it.
        """
        state = self._state
        with self._taking:
            replied = self.has_reply(task)
            reply_id = self._reply_of.pop(task.message_id, None)
            if not replied and reply_id is not None:  # its ClientApp died while uploading it
                state.delete_messages(message_ids=[reply_id])
                state.object_store.delete(reply_id)
        state.finish_task(task.task_id, original("flwr.common.constant", "SubStatus").FAILED, failure)
        if not replied:  # else the loop may be at the next message already, which is not ours to answer
            # Marks the message as taken also when the ClientApp died before it took it: only those are answered.
            state.get_messages_legacy(run_ids=[task.run_id], is_reply=False)
            error_code = original("flwr.common.constant", "ErrorCode").CLIENT_APP_CRASHED
            state._store_error_replies({task.run_id}, original("flwr.app", "Error")(error_code, failure))
            self._reply_stored.set()

    def still_runs(self, run_id: int) -> bool:
        """Ask SuperLink whether a run still runs. Waits out an outage; raises what SuperLink's refusals raise."""
        try:
            self._get_run(run_id)
        except original("flwr.supercore.run", "RunNotRunningException"):
            return False
        return True

    def _waiting_messages(self) -> dict[int, str]:
        """Give the stored messages that no ClientApp has taken, by run. Flower makes a message's task before it stores it."""
        if self._state is None:
            return {}
        with self._state.lock_msg_store:
            stored = [entry.message.metadata for entry in self._state.msg_store.values() if not entry.is_retrieved]
        return {each.run_id: each.message_id for each in stored if not each.reply_to_message_id}

    def _sleep(self, seconds: float) -> None:
        """Stand in for time.sleep in the loop: the idle poll is 3 s there, the wait for a reply or its objects 0.5 s."""
        if seconds >= 1:
            lately = time.monotonic() - self._message_at < _ACTIVE_FOR_S
            time.sleep(_ACTIVE_POLL_S if lately else _IDLE_POLL_S)
        else:
            self._reply_stored.wait(min(seconds, 0.05))
            self._reply_stored.clear()

    def _see_messages(self) -> None:
        node_state = original(_NODE_STATE, "InMemoryNodeState")
        store = node_state.store_message

        def store_message(state: Any, message: Any) -> Any:
            stored = store(state, message)
            metadata = message.metadata
            self._state = state
            if metadata.reply_to_message_id:
                self._reply_of[metadata.reply_to_message_id] = metadata.message_id
                self._reply_stored.set()
            else:
                self._message_at = time.monotonic()
                self._at_work = metadata.message_id
                self.message_stored.set()
            return stored

        node_state.store_message = store_message

    def _see_connection(self) -> None:
        connect = original(_LOOP, "http_request_response")

        @contextmanager
        def http_request_response(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with connect(*args, **kwargs) as connection:
                self._get_run = connection[3]
                self._connected.set()
                yield connection

        replace(_LOOP, "http_request_response", http_request_response)

    def _push_until_answered(self) -> None:
        """Have the loop push until the message at work is answered.

        Stock pushes what is there and goes on. A message whose run ended while it was pulled is ignored by the loop but has
        a ClientApp already: its answer would be pushed in place of the next message's, which then is never pushed.
        """
        push_once = original(_LOOP, "_push_messages")

        def push_messages(*, state: Any, **rest: Any) -> None:
            at_work = self._at_work
            push_once(state=state, **rest)
            while at_work in state.msg_store:
                push_once(state=state, **rest)

        replace(_LOOP, "_push_messages", push_messages)

    def _send_what_is_whole(self) -> None:
        """Have the loop take replies whose objects are all there.

        Stock takes one while its ClientApp still uploads it. If that dies then, SuperLink has the reply's head already, and its
        round waits three minutes for the rest.
        """
        node_state = original(_NODE_STATE, "InMemoryNodeState")
        get_messages = node_state.get_messages_legacy

        def get_messages_legacy(state: Any, **which: Any) -> Any:
            if not which.get("is_reply"):
                return get_messages(state, **which)
            with self._taking:
                taken = get_messages(state, **which)
                whole = [each for each in taken if self._is_whole(each.metadata.message_id)]
                with state.lock_msg_store:
                    for each in taken:
                        if each not in whole and each.metadata.message_id in state.msg_store:
                            state.msg_store[each.metadata.message_id].is_retrieved = False
            return whole

        node_state.get_messages_legacy = get_messages_legacy

    def _is_sent(self, message_id: str) -> bool:
        """Has the loop taken the reply to a message? It forgets both once it has pushed it."""
        reply_id, state = self._reply_of.get(message_id), self._state
        with state.lock_msg_store:
            reply = state.msg_store.get(reply_id)
            return reply_id is not None and (message_id not in state.msg_store or (reply is not None and reply.is_retrieved))

    def _is_whole(self, reply_id: str | None) -> bool:
        """Are all objects of a reply stored? None, where there is no reply, is not."""
        store = self._state.object_store
        try:
            tree = store.get_object_tree(reply_id)
        except original("flwr.supercore.object_store", "NoObjectInStoreError"):  # none came for three minutes: Flower deleted it
            return False
        objects = original("flwr.supercore.inflatable.inflatable_object", "iterate_object_tree")(tree)
        return all(store.get(each.object_id) for each in objects)


def _survive_failed_heartbeats() -> None:
    """Make an exception a failed heartbeat, tried again. Stock: the thread dies and the node is offline a minute later."""
    sender = original(_FLEET, "HeartbeatSender")

    def safe_sender(heartbeat_fn: Any) -> Any:
        def beat() -> bool:
            try:
                return bool(heartbeat_fn())
            except Exception as error:
                print(f"heartbeat failed, trying again: {error!r:.200}", flush=True)
                return False

        return sender(beat)

    replace(_FLEET, "HeartbeatSender", safe_sender)
