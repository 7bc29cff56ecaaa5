"""A benchmark that is told to end cleans up behind itself."""

import signal
import subprocess
import sys

import pytest

BENCH = """
import time
from benchmarks.measure.leaving import leave_in_order
leave_in_order()
try:
    print("at work", flush=True)
    time.sleep(600)
finally:
    print("servers ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_by_way_of_its_cleanup(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", BENCH], stdout=subprocess.PIPE, text=True) as bench:
        assert bench.stdout is not None
        assert bench.stdout.readline() == "at work\n"
        bench.send_signal(number)
        assert bench.stdout.read() == "servers ended\n"
        assert bench.wait(10) == 128 + number
