"""Who asks SuperLink again has not got its answer: it is given again what has not been confirmed.

Flower (1.41) marks a message as delivered, and deletes a reply's rows, before it answers. An answer that is lost, because
SuperLink is killed then or the connection breaks, is lost for good, and its round stands still until its deadline. Here a reply
stays until the ServerApp has confirmed it, and a node that asks for messages gets the one that it has not confirmed: it has no
other at work.
"""

from typing import Any

from sqlalchemy import Select, exists, select, update

from flower_runtime.patch import original, replace

_STATE = "flwr.server.superlink.linkstate.sql_linkstate"
_FLEET, _RUNTIME = "flwr.superlink.servicer.fleet.fleet_handlers", "flwr.superlink.servicer.runtime.runtime_handlers"


def install() -> None:
    """Have SuperLink's handlers give again. Once, before flower_superlink(). A state in memory only stays as it is."""
    in_database = original(_STATE, "SqlLinkState")
    give_replies, reply_confirmed = original(_RUNTIME, "pull_messages"), original(_RUNTIME, "confirm_message_received")
    give_message, begin_life = original(_FLEET, "pull_messages"), original(_FLEET, "activate_node")

    def pull_replies(request: Any, state: Any, task: Any) -> Any:
        if not isinstance(state, in_database):
            return give_replies(request, state, task)
        _take_replies_back(state, set(request.message_ids))
        return give_replies(request, _KeepingReplies(state), task)

    def confirm_reply(request: Any, state: Any, task: Any) -> Any:
        if isinstance(state, in_database):
            _delete_reply(state, request.message_object_id)
        return reply_confirmed(request, state, task)

    def pull_message(request: Any, state: Any, store: Any) -> Any:
        if isinstance(state, in_database):
            _take_message_back(state, request.node.node_id)
        return give_message(request, state, store)

    def activate(request: Any, state: Any) -> Any:
        answer = begin_life(request, state)
        if isinstance(state, in_database):
            _drop_message(state, answer.node_id)
        return answer

    replace(_RUNTIME, "pull_messages", pull_replies)
    replace(_RUNTIME, "confirm_message_received", confirm_reply)
    replace(_FLEET, "pull_messages", pull_message)
    replace(_FLEET, "activate_node", activate)


class _KeepingReplies:
    """SuperLink's state, as the handler sees it that gives replies out: what it gives out stays."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def delete_messages(self, message_ins_ids: set[str]) -> None:
        reply, state = original(_STATE, "MessageResModel"), self._state
        given = select(reply.reply_to_message_id, reply.message_id).where(
            reply.reply_to_message_id.in_(message_ins_ids), reply.delivered_at != ""
        )
        with state.session() as session:
            kept = {answered for answered, reply_id in session.execute(given) if reply_id in state.object_store}
            state.delete_messages(message_ins_ids=message_ins_ids - kept)


def _take_replies_back(state: Any, message_ids: set[str]) -> None:
    """Take for undelivered the replies that are asked for."""
    reply = original(_STATE, "MessageResModel")
    given = update(reply).where(reply.reply_to_message_id.in_(message_ids), reply.delivered_at != "")
    with state.session() as session:
        session.execute(given.values(delivered_at=""))


def _delete_reply(state: Any, reply_id: str) -> None:
    """Delete a reply that has arrived, and the message it answers."""
    reply = original(_STATE, "MessageResModel")
    with state.session() as session:
        answered = session.scalar(select(reply.reply_to_message_id).where(reply.message_id == reply_id))
        if answered is not None:
            state.delete_messages(message_ins_ids={answered})


def _take_message_back(state: Any, node_id: int) -> None:
    """Take for undelivered what a node was given and has not confirmed; the objects of what it has are deleted."""
    message = original(_STATE, "MessageInsModel")
    with state.session() as session:
        unconfirmed = [each for each in session.scalars(_given(node_id)) if each in state.object_store]
        if unconfirmed:
            session.execute(update(message).where(message.message_id.in_(unconfirmed)).values(delivered_at=""))


def _drop_message(state: Any, node_id: int) -> None:
    """Drop what a node's former SuperNode was given and did not confirm: its engine knows that it died, and counts on nothing."""
    with state.session() as session:
        for message_id in session.scalars(_given(node_id)).all():
            state.object_store.delete(message_id)


def _given(node_id: int) -> Select[Any]:
    """Choose the messages that a node was given and has not answered."""
    message, reply = original(_STATE, "MessageInsModel"), original(_STATE, "MessageResModel")
    return select(message.message_id).where(
        message.dst_node_id == original(_STATE, "uint64_to_int64")(node_id),
        message.delivered_at != "",
        ~exists().where(reply.reply_to_message_id == message.message_id),
    )
