"""The level of a line, as far as a line tells it."""

import pytest
from client_server.levels import Levels


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("\x1b[92mINFO \x1b[0m:      Starting Flower SuperNode", "INFO"),
        ("\x1b[93mWARNING \x1b[0m:   slow", "WARNING"),
        ("ERROR :     it failed", "ERROR"),
        ("INFO:     127.0.0.1:5 - GET /v1/x 500", "INFO"),
        ("2026-11-22 06:25:07,301 CRITICAL root: gone", "CRITICAL"),
        ("[ERROR] by a library", "ERROR"),
        ("WARN something", "WARNING"),
        ("plain print", "INFO"),
        ("no ERRORS here", "INFO"),
        ("a sentence that speaks of an error: ERROR : deep in the line, which is far beyond where levels stand", "ERROR"),
        ("", "INFO"),
        ("Fatal Python error: Segmentation fault", "ERROR"),
    ],
)
def test_a_line_names_its_level(line: str, level: str) -> None:
    assert Levels().read(line)[0] == level


def test_a_traceback_is_an_error_from_its_first_line_to_its_exception_and_no_further() -> None:
    lines = [
        "before",
        "Traceback (most recent call last):",
        '  File "x.py", line 1, in f',
        "    g()",
        "    ~^^",
        "ValueError: no",
        "after",
    ]
    levels = Levels()
    assert [levels.read(line)[0] for line in lines] == ["INFO", "ERROR", "ERROR", "ERROR", "ERROR", "ERROR", "INFO"]


def test_a_long_line_is_cut_and_colours_are_taken_out() -> None:
    assert Levels().read("\x1b[1mx\x1b[0m" + "y" * 5000)[1] == "x" + "y" * 1999
