"""Text from strangers, on one line of a log."""

from __future__ import annotations

import pytest
from flower_app.text import one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain text, ä and 文", "plain text, ä and 文"),
        ("a\n\n  b\r\nc\x0bd\x85e\u2028f\n", "a | b | c | d | e | f"),
        ("a\t b\xa0\u3000c", "a b c"),
        ("\x1b[2J\x07\x7f\x9b", r"\x1b[2J\x07\x7f\x9b"),
        ("\u202eno\u2066\u200b\ufeff\U000e0041", r"\u202eno\u2066\u200b\ufeff\U000e0041"),
        ("half \ud800", "half ?"),
        ("x" * 200, "x" * 20 + " … " + "x" * 20),
    ],
)
def test_what_a_stranger_says_is_one_line_that_a_terminal_only_shows(text: str, line: str) -> None:
    assert one_line(text, 40) == line
    assert line.isprintable()
