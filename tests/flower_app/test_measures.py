"""What a process says of its memory is its own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from flower_app.measures import peak_rss_bytes, rss_bytes

MB = 10**6


def test_the_peak_stays_when_memory_is_given_back() -> None:
    before = peak_rss_bytes()
    filled = np.ones(before // 8 + 50 * MB // 8)
    assert peak_rss_bytes() >= before + 40 * MB
    del filled
    assert peak_rss_bytes() >= max(rss_bytes(), before + 40 * MB)


def test_a_program_does_not_inherit_the_peak_of_who_started_it() -> None:
    filled = np.ones(400 * MB // 8)
    told = subprocess.run(
        [sys.executable, "-c", "from flower_app.measures import peak_rss_bytes; print(peak_rss_bytes())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(told.stdout) < 100 * MB < filled.nbytes
