"""A node's warm server: what starts a ClientApp in hundredths of a second where a new Python needs seconds of CPU.

On a socket the node writes `{"folder"}` for each message and reads `{"ready"}` once, `{"pid"}` for each fork and
`{"pid", "code"}` for each end. Everything is called by the one thread that supervises ClientApps, with which the server dies.
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

from flower_runtime.output import last_lines, open_output
from flower_runtime.procfile import ProcessRecord, read_json, write_json

_WARM_UP_S = 60.0
_FORK_S = 5.0


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
        self._started = 0.0
        self._is_ready = False
        self._forked: list[int] = []
        self._codes: dict[int, int] = {}

    def start(self) -> None:
        """Start it; it is warming up then. What keeps it from starting is said in the node's log, and no failure."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        with theirs:
            output = open_output(self._folder / "output.log")
            command = [sys.executable, "-P", "-m", "flower_runtime.warm_server", str(os.getpid()), self._runtime_api]
            try:
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
            except OSError as error:
                ours.close()
                print(f"no warm server, each ClientApp is started anew: {error}", flush=True)
                return
            finally:
                os.close(output)
        ProcessRecord.of(self._process.pid, "warm-server").write(self._folder / "proc.json")
        self._socket, self._heard, self._is_ready, self._started = ours, b"", False, time.monotonic()

    @property
    def is_warming(self) -> bool:
        """Is it about to be ready? Then it is worth waiting for: a new Python would import the same."""
        if self._socket is None or self._is_ready:
            return False
        self._listen(0)
        if not self._is_ready and time.monotonic() - self._started > _WARM_UP_S:
            self._give_up(f"it was not warm within {_WARM_UP_S:g} s")
        return self._socket is not None and not self._is_ready

    def fork(self, folder: Path) -> "WarmProcess | None":
        """Start a ClientApp that finds its token in the folder and writes its output there; None when it cannot."""
        if self._socket is None or not self._is_ready:
            return None
        before = len(self._forked)
        try:
            self._socket.sendall(json.dumps({"folder": str(folder)}).encode() + b"\n")
        except OSError as error:
            self._give_up(f"it does not listen: {error}")
        until = time.monotonic() + _FORK_S
        while self._socket is not None and len(self._forked) == before:
            if time.monotonic() > until:
                self._give_up(f"it did not fork within {_FORK_S:g} s")
            self._listen(0.05)
        if len(self._forked) == before:
            self.start()  # for the message after this one
            return None
        return WarmProcess(self, self._forked[-1])

    def learn(self, folder: Path) -> None:
        """Import from now on what the ClientApp of this folder needed. Only while no ClientApp is at work."""
        needed = read_json(folder / "modules.json")
        (folder / "modules.json").unlink(missing_ok=True)
        if self._process is None or not isinstance(needed, list):
            return
        known = read_json(self._modules_file) or []
        if not set(needed) <= set(known):
            write_json(self._modules_file, list(dict.fromkeys([*known, *needed])))
            self.close()
            self.start()

    def code_of(self, pid: int, timeout_s: float) -> int | None:
        """Give the exit code of a fork, negative for a signal; None when it still lives after the time."""
        if pid not in self._codes and self._socket is not None:
            self._listen(timeout_s)
        return self._codes.get(pid)

    def forget(self, pid: int) -> None:
        """Keep the exit code no longer."""
        self._codes.pop(pid, None)

    def close(self) -> None:
        """End it, and with it the ClientApps that it has forked."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for pid in self._forked:
            self._codes.setdefault(pid, -9)
        self._forked.clear()

    def _listen(self, timeout_s: float) -> None:
        assert self._socket is not None
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return
        try:
            heard = self._socket.recv(65536)
        except OSError:
            heard = b""
        if not heard:
            self._give_up("it has ended: " + "; ".join(last_lines(self._folder / "output.log", 3)))
            return
        *whole, self._heard = (self._heard + heard).split(b"\n")
        for line in whole:
            self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self._is_ready = True
        elif "code" in message:
            self._codes[message["pid"]] = message["code"]
            self._forked.remove(message["pid"])
        else:
            self._forked.append(message["pid"])

    def _give_up(self, why: str) -> None:
        print(f"the warm server is not used, ClientApps are started anew: {why}", flush=True)
        self.close()


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

    def _look(self, timeout_s: float) -> int | None:
        if self._code is None:
            self._code = self._server.code_of(self.pid, timeout_s)
            if self._code is not None:
                self._server.forget(self.pid)
        return self._code
