"""An admin server as its users run it: a process of its own, spoken to by REST."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

ROOT = Path(__file__).parents[2]
PASSED_ON = ("PATH", "HOME", "LANG", "LC_", "TZ", "TMPDIR", "VIRTUAL_ENV")  # beginnings of names
START_S, END_S = 90.0, 90.0


class AdminServer:
    """An admin server with its state in `home`; a context manager that leaves no process behind.

    settings: further environment variables.
    """

    def __init__(self, home: Path, **settings: str) -> None:
        self.home, self._settings = home, settings
        self.port, self.superlink_port = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        ports = {"ADMIN_PORT": str(self.port), "SUPERLINK_PORT": str(self.superlink_port)}
        passed_on = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        ours = {"ESPALIER_HOME": str(self.home), "LOG_LEVEL": "warning", **ports, **self._settings}
        with (self.home / "admin-server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "admin_server"],
                cwd=ROOT,
                env=passed_on | ours,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_up()
        except BaseException:
            self._end()
            raise
        self.token = (self.home / "admin.token").read_text().strip()
        self.rest = self.client(self.token)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.rest.close()
        self._end()

    def client(self, token: str) -> httpx.Client:
        """Give a client with one connection that is kept."""
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.address, headers=headers, timeout=60, trust_env=False)

    def ask(self, method: str, path: str, **content: Any) -> Any:
        """Ask with the admin's token. Raises httpx.HTTPStatusError."""
        return self.rest.request(method, path, **content).raise_for_status().json()

    def rss_bytes(self) -> int:
        """Give the resident memory of the server's own process."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def _wait_until_up(self) -> None:
        until = time.monotonic() + START_S
        while True:
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the admin server did not start:\n{(self.home / 'admin-server.log').read_text()[-2000:]}")
            try:
                if httpx.get(f"{self.address}/health", trust_env=False).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.1)

    def _end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
