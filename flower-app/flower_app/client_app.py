"""The ClientApp: one handler, one message, one answer, also when everything goes wrong."""

from dataclasses import replace

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from flower_app.causes import cause_of, error_for_reply
from flower_app.last_lines import kept_last_lines

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Evaluate, train, answer."""
    return _answered(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate, answer."""
    return _answered(message, context)


def _answered(message: Message, context: Context) -> Message:
    """Do what is asked; an error's cause comes home whole, as far as the site allows it.

    Flower alone would send type and text of an exception, and a minute later "crashed" for a SystemExit.
    """
    with kept_last_lines() as last_lines:
        try:
            from flower_app.turn import take_turn

            return take_turn(message, context)
        except BaseException as error:
            cause = replace(cause_of(error, last_lines.lines()), node_name=_name_of(context))
            print(cause.traceback, flush=True)
            return Message(error_for_reply(cause), reply_to=message)


def _name_of(context: Context) -> str:
    """Name the node even when the rest of its config is wrong."""
    return str(context.node_config.get("node-name") or context.node_id)
