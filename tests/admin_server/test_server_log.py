"""A ServerApp's output as rows: colours out, levels in, the last traceback found."""

import pytest
from admin_server.watch.server_log import Leveller, last_traceback


@pytest.mark.parametrize(
    ("line", "level", "text"),
    [
        ("INFO :      round 1", "info", "INFO :      round 1"),
        ("\x1b[92mINFO \x1b[0m:      round 1", "info", "INFO :      round 1"),
        ("\x1b[33mWARNING \x1b[0m:   slow", "warning", "WARNING :   slow"),
        ("[ERROR] no", "error", "[ERROR] no"),
        ("2026-11-22 08:00:00,123 ERROR no", "error", "2026-11-22 08:00:00,123 ERROR no"),
        ("CRITICAL: out of memory", "critical", "CRITICAL: out of memory"),
        ("DEBUG - x", "debug", "DEBUG - x"),
        ("INFORMATION is power", "info", "INFORMATION is power"),
        ("ERRORS were 3 in all", "info", "ERRORS were 3 in all"),
        ("plain print", "info", "plain print"),
    ],
)
def test_a_line_has_its_level_and_no_colour(line: str, level: str, text: str) -> None:
    row = Leveller().row(line)
    assert (row["level"], row["text"]) == (level, text)


def test_a_traceback_is_an_error_to_its_last_line_and_no_further() -> None:
    leveller = Leveller()
    lines = ["before", "Traceback (most recent call last):", '  File "x"', "    f()", "KeyError: 'age'", "after"]
    assert [leveller.row(line)["level"] for line in lines] == ["info", "error", "error", "error", "error", "info"]


def test_the_last_traceback_is_found_among_several() -> None:
    lines = ["Traceback (most recent call last):", '  File "a"', "KeyError: 'first'", "During handling…", ""]
    lines += ["Traceback (most recent call last):", '  File "b"', "torch.cuda.OutOfMemoryError: CUDA out of memory", "bye"]
    found = last_traceback(lines)
    assert found is not None
    assert (found.type, found.message) == ("OutOfMemoryError", "CUDA out of memory")
    assert found.text.splitlines()[1] == '  File "b"'


def test_an_exception_without_a_message_has_an_empty_one() -> None:
    found = last_traceback(["Traceback (most recent call last):", '  File "a"', "AssertionError"])
    assert found is not None
    assert (found.type, found.message) == ("AssertionError", "")


@pytest.mark.parametrize("lines", [[], ["fine"], ["Traceback (most recent call last):", '  File "cut'], ["KeyError: 'x'"]])
def test_no_whole_traceback_is_none(lines: list[str]) -> None:
    assert last_traceback(lines) is None
