"""Run all tests in two pytest processes side by side: those that start whole federations wait more than they compute.

The first half has the terminal; what the second says is shown from its beginning once the first has ended. The exit status is
that of the half that failed. TERM and Ctrl-C end both, which then stop what they have started.
"""

import signal
import subprocess
import sys
import tempfile
import time
from types import FrameType
from typing import IO

FEDERATIONS = ("tests/federation", "tests/flower_runtime")
LOOK_S = 0.2


def main() -> int:
    with tempfile.NamedTemporaryFile("r", prefix="espalier-halves-") as told:
        with open(told.name, "wb") as output:
            federations = pytest(*FEDERATIONS, stdout=output)
        rest = pytest(*(f"--ignore={folder}" for folder in FEDERATIONS))

        def end(number: int, _frame: FrameType | None) -> None:
            for half in (federations, rest):
                half.send_signal(number)

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal has told them too
        rest.wait()
        print(f"\n{' and '.join(FEDERATIONS)}, which have run beside:", flush=True)
        while federations.poll() is None:
            print(told.read(), end="", flush=True)
            time.sleep(LOOK_S)
        print(told.read(), flush=True)
    return federations.returncode or rest.returncode


def pytest(*arguments: str, stdout: IO[bytes] | None = None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "pytest", "--color=auto", *arguments], stdout=stdout, stderr=stdout)


if __name__ == "__main__":
    sys.exit(main())
