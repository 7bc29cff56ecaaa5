"""A node's warm server: what starts a ClientApp in hundredths of a second where a new Python needs seconds of CPU.

On a socket the node writes `{"folder"}` for each message and `{"reap": pid}` after each end; it reads `{"ready"}` once,
`{"pid"}` for each fork and `{"pid", "code"}` for each end. Everything is called by the one thread that supervises ClientApps,
with which the server dies. Whatever goes wrong with it is said in the node's log, and ClientApps are started anew without it.
"""

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flower_runtime.group import kill_group
from flower_runtime.output import last_lines, open_output
from flower_runtime.procfile import ProcessRecord, read_json, write_json

_WARM_UP_S = 60.0
_FORK_S = 5.0
_MOST_MODULES = 10_000


class WarmServer:
    """Started with the node, and again when a ClientApp needed modules that it had not imported, or when it died."""

    def __init__(self, folder: Path, runtime_api: str, environment: Mapping[str, str], cwd: Path) -> None:
        """folder: its output.log, proc.json and modules.json, the list of what to import, kept over restarts."""
        self._folder = folder
        self._modules_file = folder / "modules.json"
        self._runtime_api = runtime_api
        self._environment = dict(environment)
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._heard = b""
        self._started_at = 0.0
        self._is_ready = False
        self._is_hopeless = False
        self._learns = True
        self._newest: int | None = None
        self._codes: dict[int, int | None] = {}

    def start(self) -> None:
        """Start it; it is warming up then."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "flower_runtime.warm_server", str(os.getpid()), self._runtime_api]
        with theirs:
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                with os.fdopen(open_output(self._folder / "output.log"), "ab") as output:
                    self._process = subprocess.Popen(
                        [*command, str(theirs.fileno()), str(self._modules_file)],
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        cwd=self._cwd,
                        env=self._environment,
                        pass_fds=[theirs.fileno()],
                        process_group=0,
                    )
                self._socket, self._heard, self._is_ready, self._started_at = ours, b"", False, time.monotonic()
                ProcessRecord.of(self._process.pid, "warm-server").write(self._folder / "proc.json")
            except OSError as error:
                ours.close()
                self._give_up(f"it cannot be started: {error}")

    @property
    def pid(self) -> int | None:
        """Its pid; None before its first start."""
        return None if self._process is None else self._process.pid

    @property
    def is_warming(self) -> bool:
        """Is it about to be ready? Then it is worth waiting for: a new Python would import the same."""
        if self._socket is not None and not self._is_ready:
            self._listen(0)
            if not self._is_ready and time.monotonic() - self._started_at > _WARM_UP_S:
                self._give_up(f"it was not warm within {_WARM_UP_S:g} s")
        return self._socket is not None and not self._is_ready

    def fork(self, folder: Path) -> "WarmProcess | None":
        """Start a ClientApp that finds its token in the folder and writes its output there; None when it cannot."""
        self._newest = None
        if self._is_ready:
            self._say(folder=str(folder))
        until = time.monotonic() + _FORK_S
        while self._is_ready and self._newest is None:
            if time.monotonic() > until:
                self._give_up(f"it did not fork within {_FORK_S:g} s")
            else:
                self._listen(0.05)
        if self._newest is not None:
            return WarmProcess(self, self._newest)
        if self._process is not None and self._socket is None and not self._is_hopeless:
            self.start()  # for the message after this one
        return None

    def learn(self, folder: Path) -> None:
        """Import from now on what the ClientApp of this folder needed. Only while no ClientApp is at work."""
        needed, known = _names(folder / "modules.json"), _names(self._modules_file)
        try:
            (folder / "modules.json").unlink(missing_ok=True)
            if self._socket is not None and self._learns and not set(needed) <= set(known):
                write_json(self._modules_file, list(dict.fromkeys([*known, *needed]))[:_MOST_MODULES])
                self.close()
                self.start()
        except OSError as error:
            print(f"the warm server learns nothing of {folder.name}: {error}", flush=True)

    def code_of(self, pid: int, timeout_s: float) -> int | None:
        """Give the exit code of a fork, negative for a signal; None when it still lives after the time."""
        if self._codes.get(pid) is None and self._socket is not None:
            self._listen(timeout_s)
        return self._codes.get(pid)

    def release(self, pid: int) -> None:
        """Let the pid of a fork that has ended be given to others."""
        self._codes.pop(pid, None)
        self._say(reap=pid)

    def close(self) -> None:
        """End it, and with it the ClientApps that it has forked."""
        self._is_ready = False
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            kill_group(self._process.pid)
            self._process.wait()
        self._codes = {pid: -9 if code is None else code for pid, code in self._codes.items()}

    def _say(self, **wish: object) -> None:
        if self._socket is not None:
            try:
                self._socket.sendall(json.dumps(wish).encode() + b"\n")
            except OSError as error:
                self._give_up(f"it does not listen: {error}")

    def _listen(self, timeout_s: float) -> None:
        if self._socket is None or not select.select([self._socket], [], [], timeout_s)[0]:
            return
        try:
            heard = self._socket.recv(65536)
        except OSError:
            heard = b""
        if not heard:
            self._give_up("it has ended: " + "; ".join(last_lines(self._folder / "output.log", 3)))
            return
        *lines, self._heard = (self._heard + heard).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, told: dict[str, Any]) -> None:
        if "ready" in told:
            self._is_ready = True
        elif "code" in told:
            self._codes[told["pid"]] = told["code"]
        else:
            self._newest = told["pid"]
            self._codes[told["pid"]] = None

    def _give_up(self, why: str) -> None:
        """Go on without it. One that never was ready is tried once more without what was learned, then no more."""
        was_ready = self._is_ready
        self.close()
        print(f"the warm server is gone, and ClientApps are started anew: {why}", flush=True)
        if was_ready:
            return
        self._is_hopeless = not _names(self._modules_file)
        self._learns = False
        if not self._is_hopeless:
            print(f"{self._modules_file} is forgotten, for it was not warm with it", flush=True)
            self._modules_file.unlink(missing_ok=True)
            self.start()


class WarmProcess:
    """A ClientApp that the warm server has forked; what subprocess.Popen would be for another."""

    def __init__(self, server: WarmServer, pid: int) -> None:
        self.pid = pid
        self._server = server
        self._code: int | None = None

    def poll(self) -> int | None:
        """Give the exit code, negative for a signal; None while it lives."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self._look(0.05)) is None:
            if until is not None and timeout is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("flower_runtime.clientapp", timeout)
        return code

    def release(self) -> None:
        """Let its pid go, once its group has been killed."""
        self._server.release(self.pid)

    def _look(self, timeout_s: float) -> int | None:
        if self._code is None:
            self._code = self._server.code_of(self.pid, timeout_s)
        return self._code


def _names(path: Path) -> list[str]:
    """Read a list of modules; one that a ClientApp has garbled is empty."""
    told = read_json(path)
    return told if isinstance(told, list) and all(isinstance(name, str) for name in told) else []
