"""The directory of one attempt at a run, and the ServerApp that is started in it."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

from flower_runtime.environment import child_environment
from flower_runtime.group import kill_group
from flower_runtime.output import open_output
from flower_runtime.procfile import ProcessRecord, write_exit
from flower_runtime.secretfile import write_secret

_WRAPPER_PATIENCE_S = 5.0
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""Has glibc return each block of 1 MB and more to the system when it is freed. Stock, the pieces of models that several threads
pull stay in the heap: about one model more, for as long as the run lasts."""


class Attempt:
    """`<runs>/<series id>/attempts/<flower run id>/`: server.log, proc.json, exit.json."""

    def __init__(self, runs_dir: Path, series_id: str, flower_run_id: str, models_dir: Path | None = None) -> None:
        self.run_dir = runs_dir / series_id
        self.flower_run_id = flower_run_id
        self.models_dir = models_dir
        self.directory = self.run_dir / "attempts" / flower_run_id

    def start(self, token: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        """Start the wrapper, which starts the ServerApp. arguments: flwr-serverapp's, without the token.

        A task that SuperLink hands out again finds its first ServerApp dead: it would be a second writer.
        Raises OSError when the directory or the process cannot be made.
        """
        self._make_directory()
        self._end_predecessor()
        token_file = self.directory / "token"
        output = open_output(self.directory / "server.log")
        try:
            write_secret(token_file, token.encode())
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "flower_runtime.wrapper", str(self.directory), str(token_file), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=str(self.run_dir),
                env=self.environment(),
                start_new_session=True,
            )
        except OSError:
            token_file.unlink(missing_ok=True)
            raise
        finally:
            os.close(output)

    def environment(self) -> dict[str, str]:
        """Build the ServerApp's environment: the allow-list, its run directory and attempt, where initial models are."""
        ours = {"ESPALIER_RUN_DIR": str(self.run_dir), "ESPALIER_ATTEMPT": self.flower_run_id, **GIVE_BACK}
        ours |= {} if self.models_dir is None else {"ESPALIER_MODELS_DIR": str(self.models_dir)}
        return child_environment(os.environ, ours)

    def note_failed_start(self, reason: str) -> None:
        """Leave the reason in exit.json. Raises OSError where that cannot be written either."""
        self._make_directory()
        write_exit(self.directory / "exit.json", None, [reason])

    def _make_directory(self) -> None:
        for directory in (self.run_dir, self.run_dir / "attempts", self.directory):
            directory.mkdir(mode=0o700, exist_ok=True)

    def _end_predecessor(self) -> None:
        before = ProcessRecord.read(self.directory / "proc.json")
        if before is not None and before.is_alive():
            kill_group(before.pid)
        self._wait_for_its_wrapper()
        for name in ("proc.json", "exit.json"):
            (self.directory / name).unlink(missing_ok=True)

    def _wait_for_its_wrapper(self) -> None:
        """Wait until a dead ServerApp's wrapper has written exit.json, which would else be taken for the new one's."""
        folder = os.open(self.directory, os.O_RDONLY)
        deadline = time.monotonic() + _WRAPPER_PATIENCE_S
        try:
            while not _is_free(folder) and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            os.close(folder)


def _is_free(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(folder, fcntl.LOCK_UN)
    return True
