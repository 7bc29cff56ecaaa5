"""What a SuperLink gave out just before it was killed, it gives out again.

Flower (1.41) marks a message as delivered, and deletes a reply's rows, before it answers; an answer that is lost then is lost
for good, and its round stands still. Here a reply's rows stay until its receipt is confirmed, and a SuperLink that starts
takes back what it had marked and nobody has confirmed. Whoever has it already does not ask for it.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update

from flower_runtime.patch import original, replace

_STATE = "flwr.server.superlink.linkstate.sql_linkstate"
_FLEET, _RUNTIME = "flwr.superlink.servicer.fleet.fleet_handlers", "flwr.superlink.servicer.runtime.runtime_handlers"


def install() -> None:
    """Have SuperLink's handlers and its database deliver again. Once, before flower_superlink()."""
    pull, confirm_reply, confirm_message = (
        original(_RUNTIME, "pull_messages"),
        original(_RUNTIME, "confirm_message_received"),
        original(_FLEET, "confirm_message_received"),
    )

    def pull_replies(request: Any, state: Any, task: Any) -> Any:
        return pull(request, _Unconfirmed(state), task)

    def reply_confirmed(request: Any, state: Any, task: Any) -> Any:
        _forget(state, request.message_object_id)
        return confirm_reply(request, state, task)

    def message_confirmed(request: Any, state: Any, store: Any) -> Any:
        _mark(state, request.message_object_id)
        return confirm_message(request, state, store)

    replace(_RUNTIME, "pull_messages", pull_replies)
    replace(_RUNTIME, "confirm_message_received", reply_confirmed)
    replace(_FLEET, "confirm_message_received", message_confirmed)
    _take_back_at_start()


class _Unconfirmed:
    """SuperLink's state, as the handler sees it that gives replies out: a reply whose objects are still there stays."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def delete_messages(self, message_ins_ids: set[str]) -> None:
        reply, state = original(_STATE, "MessageResModel"), self._state
        question = select(reply.reply_to_message_id, reply.message_id).where(reply.reply_to_message_id.in_(message_ins_ids))
        with state.session() as session:
            kept = {answered for answered, reply_id in session.execute(question) if reply_id in state.object_store}
            state.delete_messages(message_ins_ids=message_ins_ids - kept)


def _forget(state: Any, reply_id: str) -> None:
    """Delete a reply that has arrived, and the message it answers."""
    reply = original(_STATE, "MessageResModel")
    with state.session() as session:
        answered = session.scalar(select(reply.reply_to_message_id).where(reply.message_id == reply_id))
        if answered is not None:
            state.delete_messages(message_ins_ids={answered})


def _mark(state: Any, message_id: str) -> None:
    """Mark a message that has arrived as delivered; a start may have taken that back while it was on its way."""
    message = original(_STATE, "MessageInsModel")
    arrived = update(message).where(message.message_id == message_id, message.delivered_at == "")
    with state.session() as session:
        session.execute(arrived.values(delivered_at=datetime.now(UTC).isoformat()))


def _take_back_at_start() -> None:
    state_class = original(_STATE, "SqlLinkState")
    initialize: Callable[..., Any] = state_class.initialize

    def initialize_and_take_back(state: Any, *args: Any, **rest: Any) -> Any:
        result = initialize(state, *args, **rest)
        _take_back(state)
        return result

    state_class.initialize = initialize_and_take_back


def _take_back(state: Any) -> None:
    """Take for undelivered what has not been confirmed: each reply that is there, each message with its objects."""
    message, reply = original(_STATE, "MessageInsModel"), original(_STATE, "MessageResModel")
    unanswered = select(message.message_id).where(
        message.delivered_at != "", message.message_id.not_in(select(reply.reply_to_message_id))
    )
    with state.session() as session:
        on_their_way = [each for each in session.scalars(unanswered) if each in state.object_store]
        session.execute(update(message).where(message.message_id.in_(on_their_way)).values(delivered_at=""))
        session.execute(update(reply).values(delivered_at=""))
