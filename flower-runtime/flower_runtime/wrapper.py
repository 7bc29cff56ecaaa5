"""The parent of one ServerApp: says who it is, waits for it, says how it ended.

`python -m flower_runtime.wrapper ATTEMPT_DIR TOKEN_FILE <flwr-serverapp args>`, started by the executor in a session of its
own, output already directed to the attempt's server.log. Imports nothing of Flower: it lives as long as the run.

The ServerApp leads a process group of its own, so that a signal to that group ends the app and its children, and this
process is left to write exit.json. When this process dies, the kernel kills the ServerApp. It holds a shared lock of the
attempt's folder for as long as it lives: while it does, an end that is not in exit.json is still to be told.
"""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from flower_runtime.group import kill_group, signal_group
from flower_runtime.oom import OomKills
from flower_runtime.output import last_lines
from flower_runtime.procfile import ProcessRecord, write_exit

MEMORY_KNOBS = "lower server-memory-limit-mb or k-of-n, or give the coordinator more memory"


def main() -> int:
    """Start the ServerApp, write proc.json, wait, write exit.json. Returns 0 when both could be written."""
    attempt, token_file, arguments = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    log = attempt / "server.log"
    command = [sys.executable, "-P", "-m", "flower_runtime.serverapp", str(os.getpid())]
    app: subprocess.Popen[bytes] | None = None
    oom_kills = OomKills()
    fcntl.flock(os.open(attempt, os.O_RDONLY), fcntl.LOCK_SH)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if app is not None and app.returncode is None:
            signal_group(app.pid, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    try:
        app = subprocess.Popen([*command, "--token-file", str(token_file), *arguments], process_group=0)
    except OSError as error:
        token_file.unlink(missing_ok=True)
        write_exit(attempt / "exit.json", None, [f"the ServerApp could not be started: {error}"])
        return 1

    ProcessRecord.of(app.pid, "serverapp").write(attempt / "proc.json")
    code = app.wait()
    kill_group(app.pid)
    token_file.unlink(missing_ok=True)
    print(f"ServerApp ended: {oom_kills.describe_end(code, MEMORY_KNOBS)}", flush=True)
    write_exit(attempt / "exit.json", code, last_lines(log))
    return 0


if __name__ == "__main__":
    sys.exit(main())
