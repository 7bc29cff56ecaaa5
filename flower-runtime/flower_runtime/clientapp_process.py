"""One ClientApp process: its folder, its group, its end."""

import os
import subprocess
import sys
import time
from pathlib import Path

from flower_runtime.group import kill_group
from flower_runtime.handover import ClientAppTask
from flower_runtime.oom import OomKills, peak_bytes
from flower_runtime.output import last_lines, open_output
from flower_runtime.procfile import ProcessRecord, describe_end, write_exit
from flower_runtime.secretfile import write_secret
from flower_runtime.warm import WarmProcess, WarmServer

MEMORY_KNOBS = "lower batch-size, max-length or lora-r, or give the node more memory"


class ClientAppProcess:
    """`clientapps/<flower run id>/<message id>/`: output.log, proc.json, exit.json.

    The process leads a group of its own, and dies with the thread that started it, or with the warm server that forked it.
    """

    def __init__(
        self, folder: Path, task: ClientAppTask, runtime_api: str, environment: dict[str, str], cwd: Path, warm: WarmServer | None
    ) -> None:
        """Start it, by a fork of the warm server if that can. Raises OSError when the folder or the process cannot be made."""
        self.task = task
        self.folder = folder
        self.killed_because: str | None = None
        self._started = time.monotonic()
        self._oom_kills, self._peak_bytes = OomKills(), 0
        self._process: subprocess.Popen[bytes] | WarmProcess
        for made in (folder.parent, folder):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        token_file = folder / "token"
        try:
            write_secret(token_file, task.token.encode())
            forked = None if warm is None else warm.fork(folder)
            if forked is None:
                write_secret(token_file, task.token.encode())  # a fork that came too late may have taken the first
            self._process = forked or _new_python(folder, runtime_api, environment, cwd)
        except OSError:
            token_file.unlink(missing_ok=True)
            raise
        self.pid = self._process.pid
        try:
            ProcessRecord.of(self.pid, "clientapp").write(folder / "proc.json")
        except OSError:
            kill_group(self.pid)
            self._process.wait()
            raise

    @property
    def seconds(self) -> float:
        """How long ago it was started."""
        return time.monotonic() - self._started

    def kill(self, reason: str) -> None:
        """Kill it and all that it started in its group. The reason stays with it."""
        if self.killed_because is None and self._process.poll() is None:
            self.killed_because = reason
            kill_group(self.pid)

    def poll(self) -> int | None:
        """Give the exit code, negative for a signal; None while it lives. Looks at its memory too, which is gone afterwards."""
        self._peak_bytes = max(self._peak_bytes, peak_bytes(self.pid))
        return self._process.poll()

    def close(self, timeout_s: float | None = None) -> int:
        """Wait for its end, kill what it left in its group, write exit.json. Returns the exit code."""
        code = self._process.wait(timeout_s)
        kill_group(self.pid)
        if isinstance(self._process, WarmProcess):
            self._process.release()
        try:
            (self.folder / "token").unlink(missing_ok=True)
            write_exit(self.folder / "exit.json", code, self.last_lines())
        except OSError as error:  # the folder is the ClientApp's own to spoil
            print(f"how ClientApp pid {self.pid} ended is not on disk: {error}", flush=True)
        return code

    def last_lines(self) -> list[str]:
        return last_lines(self.folder / "output.log")

    def describe_end(self, code: int) -> str:
        """Say how it ended and, if we or the kernel for want of memory have killed it, why."""
        if self.killed_because is not None:
            return f"{describe_end(code)}: {self.killed_because}"
        return self._oom_kills.describe_end(code, MEMORY_KNOBS, self._peak_bytes)


def _new_python(folder: Path, runtime_api: str, environment: dict[str, str], cwd: Path) -> "subprocess.Popen[bytes]":
    output = open_output(folder / "output.log")
    command = [sys.executable, "-P", "-m", "flower_runtime.clientapp", str(os.getpid()), runtime_api, str(folder / "token")]
    try:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=str(cwd), env=environment, process_group=0
        )
    finally:
        os.close(output)
