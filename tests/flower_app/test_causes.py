"""Causes on their way from a node to the journal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flower_app.causes import Cause, cause_of, cause_of_reply, error_for_reply
from flwr.app import Error


def raised() -> Exception:
    try:
        raise ValueError("no such scan")
    except ValueError as error:
        return error


def test_a_cause_survives_the_wire() -> None:
    cause = cause_of(raised(), ["a", "b"])
    back = cause_of_reply(error_for_reply(cause, {"ESPALIER_FORWARD_LOGS": "all"}))
    assert back == cause
    assert "no such scan" in (back.traceback or "")


def test_the_nodes_id_is_the_servers_word_and_the_name_its_own() -> None:
    cause = Cause("KeyError", "x", node_name="site-a").at(5, "registered")
    assert (cause.node_id, cause.node_name) == ("5", "site-a")
    assert Cause("KeyError", "x").at(5, "registered").node_name == "registered"
    assert cause.sentence() == "site-a: KeyError: x"
    assert Cause("KeyError", "").at(5, None).sentence() == "node 5: KeyError"


@pytest.mark.parametrize(
    ("error", "kind", "message", "lines"),
    [
        (Error(5, "Error: Node Unavailable — gone"), "NODE_UNAVAILABLE", "Error: Node Unavailable — gone", []),
        (Error(8, "exit code 3\nx\ny"), "CLIENT_APP_CRASHED", "exit code 3", ["x", "y"]),
        (Error(2, "<class 'KeyError'>:<''a''>"), "CLIENT_APP_RAISED_EXCEPTION", "<class 'KeyError'>:<''a''>", []),
        (Error(0, None), "UNKNOWN", "", []),
        (Error(77, "what"), "ERROR_77", "what", []),
        (Error(100, "not ours"), "ERROR_100", "not ours", []),
        (Error(100, "[1]"), "ERROR_100", "[1]", []),
        (Error(100, '{"type": "X"}'), "ERROR_100", '{"type": "X"}', []),
    ],
)
def test_every_error_reply_has_a_cause(error: Any, kind: Any, message: Any, lines: Any) -> None:
    cause = cause_of_reply(error)
    assert (cause.type, cause.message, list(cause.last_lines)) == (kind, message, lines)


def test_half_characters_and_nul_do_not_reach_the_journal() -> None:
    reason = (
        '{"type": "a\\u0000b", "message": "\\ud800", "node_name": "n\\u0000", "traceback": "\\udfff", "last_lines": ["\\ud800"]}'
    )
    cause = cause_of_reply(Error(100, reason))
    assert (cause.type, cause.message, cause.node_name) == ("a\ufffdb", "?", "n\ufffd")
    assert (cause.traceback, list(cause.last_lines)) == ("?", ["?"])
    assert cause_of(ValueError("\ud800\0")).message == "?\ufffd"


def test_long_texts_are_shortened_in_the_middle() -> None:
    cause = cause_of(ValueError("a" * 30_000 + "the end"))
    assert len(cause.message) < 20_100
    assert cause.message.endswith("the end")
    reason = {"type": "X", "message": "m" * 90_000, "last_lines": ["l"] * 90}
    back = cause_of_reply(Error(100, json.dumps(reason)))
    assert len(back.message) < 20_100
    assert len(back.last_lines) == 20
