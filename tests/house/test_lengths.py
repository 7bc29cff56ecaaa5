"""Files stay short enough to be read at once."""

import subprocess
import sys

import pytest

from tests.house import lengths


def test_our_files_are_short() -> None:
    assert lengths.complaints(lengths.lengths()) == []


def test_a_file_over_400_lines_is_named() -> None:
    told = lengths.complaints({"a.py": 401, **{f"{number}.py": 60 for number in range(20)}})
    assert told == ["a.py has 401 lines; over 400 fails"]


@pytest.mark.parametrize(("counts", "word"), [([130] * 10, "half"), ([10] * 8 + [300] * 2, "tenth")])
def test_too_many_long_files_are_told(counts: list[int], word: str) -> None:
    (told,) = lengths.complaints({f"{number}.py": count for number, count in enumerate(counts)})
    assert word in told


def test_the_check_prints_median_and_p90() -> None:
    printed = subprocess.run([sys.executable, lengths.__file__], capture_output=True, text=True, check=True).stdout
    assert "median" in printed
    assert "p90" in printed
