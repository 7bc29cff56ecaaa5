"""Why something failed, as it travels from a node's exception to the journal."""

import json
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from flwr.app import Error
from flwr.common.constant import ErrorCode

from flower_app.text import cleaned

APP_ERROR = 100
"""Code of an error reply that the app itself made; Flower's own codes are below."""

FORWARD_LOGS = "ESPALIER_FORWARD_LOGS"
SENTENCE_LIMIT = 500
TEXT_LIMIT, LINE_LIMIT, NAME_LIMIT, LINES = 20_000, 2_000, 200, 20
"""Characters kept of a text, a line, a name, and lines kept: an exception may carry a whole batch in its text."""

CODE_NAMES = {value: name for name, value in vars(ErrorCode).items() if name.isupper()}


@dataclass(frozen=True)
class Cause:
    """Who failed, how, and what it said last; a node's parts are null where it is not a node's."""

    type: str
    message: str
    node_id: str | None = None
    node_name: str | None = None
    traceback: str | None = None
    last_lines: Sequence[str] = ()

    def record(self) -> dict[str, Any]:
        """Give the cause as the journal has it."""
        return {**asdict(self), "last_lines": list(self.last_lines)}

    def at(self, node_id: int, node_name: str | None) -> "Cause":
        """Name the node; a name that the cause brings along is the node's own word and stays."""
        return replace(self, node_id=str(node_id), node_name=self.node_name or node_name)

    def sentence(self) -> str:
        """Say it in short, node first."""
        who = self.node_name or (f"node {self.node_id}" if self.node_id else "server")
        return cleaned(f"{who}: {self.type}: {self.message}" if self.message else f"{who}: {self.type}", SENTENCE_LIMIT)


def cause_of(error: BaseException, last_lines: Sequence[str] = ()) -> Cause:
    """Describe an exception with its whole traceback."""
    return Cause(
        type=type(error).__name__,
        message=cleaned(error, TEXT_LIMIT),
        traceback=cleaned("".join(traceback.format_exception(error)), TEXT_LIMIT),
        last_lines=[cleaned(line, LINE_LIMIT) for line in last_lines],
    )


def error_for_reply(cause: Cause, environment: Mapping[str, str] = os.environ) -> Error:
    """Make the error that a node answers with, no more of it than the site allows.

    ESPALIER_FORWARD_LOGS: `none` leaves the exception's type (and the node's name) alone; `errors` and `all`, and a
    node that says nothing, send everything. An unknown value is read as `none`.
    """
    if environment.get(FORWARD_LOGS, "errors") not in ("errors", "all"):
        cause = Cause(type=cause.type, message="", node_name=cause.node_name)
    parts = cause.record()
    return Error(code=APP_ERROR, reason=json.dumps({name: parts[name] for name in parts if name != "node_id"}))


def cause_of_reply(error: Error) -> Cause:
    """Read an error reply: our own JSON, or what Flower and the node's launcher say in plain text."""
    reason = error.reason or ""
    if error.code == APP_ERROR:
        try:
            parts = json.loads(reason)
            return Cause(
                type=cleaned(parts["type"], NAME_LIMIT),
                message=cleaned(parts["message"], TEXT_LIMIT),
                node_name=None if parts.get("node_name") is None else cleaned(parts["node_name"], NAME_LIMIT),
                traceback=None if parts.get("traceback") is None else cleaned(parts["traceback"], TEXT_LIMIT),
                last_lines=[cleaned(line, LINE_LIMIT) for line in parts.get("last_lines", [])[-LINES:]],
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass  # not ours after all: an app may use the same code; its text is shown as it is
    first, *rest = [cleaned(line, LINE_LIMIT) for line in reason.splitlines()] or [""]
    return Cause(type=CODE_NAMES.get(error.code, f"ERROR_{error.code}"), message=first, last_lines=rest[-LINES:])
