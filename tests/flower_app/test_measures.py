"""What a process says of its memory is its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flower_app.measures import memory_bytes, peak_rss_bytes, rss_bytes

MB = 10**6
RAM_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
UNLIMITED_V1 = "9223372036854771712"


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


@pytest.mark.parametrize(
    ("groups", "limits", "memory"),
    [
        ("0::/\n", {"memory.max": "64000000"}, 64 * MB),
        ("0::/\n", {"memory.max": "max"}, RAM_BYTES),
        ("0::/\n", {}, RAM_BYTES),
        ("0::/site/app\n", {"site/app/memory.max": "max", "site/memory.max": "64000000", "memory.max": "max"}, 64 * MB),
        ("0::/of/the/host\n", {"memory.max": "64000000"}, 64 * MB),
        ("0::/\n", {"memory.max": str(2**62)}, RAM_BYTES),
        ("3:cpu:/\n2:hugetlb,memory:/site\n0::/\n", {"memory/site/memory.limit_in_bytes": "64000000"}, 64 * MB),
        ("2:memory:/site\n", {"memory/memory.limit_in_bytes": UNLIMITED_V1}, RAM_BYTES),
        ("2:cpu:/\n", {"memory/memory.limit_in_bytes": "64000000", "memory.max": "64000000"}, RAM_BYTES),
        (None, {}, RAM_BYTES),
    ],
)
def test_a_process_may_take_what_the_narrowest_of_its_cgroups_may(
    groups: str | None, limits: dict[str, str], memory: int, tmp_path: Path
) -> None:
    files = {f"sys/fs/cgroup/{name}": text for name, text in limits.items()}
    for name, text in (files | {"proc/self/cgroup": groups}).items():
        if text is not None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    assert memory_bytes(tmp_path) == memory
