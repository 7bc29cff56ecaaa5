"""The demo's servers as child processes, and how it talks to them: standard library and httpx, no room of ours."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import httpx

PASSED_ON = ("PATH", "HOME", "LANG", "LC_", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SSL_CERT_")  # beginnings
GRACE_S = 30.0  # the admin server ends ServerApps, executor, SuperLink and Postgres one after the other
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

ending = threading.Event()
signalled_by = 0


class Trouble(Exception):
    """What went wrong, in a sentence for the person who started the demo."""


class Signalled(Exception):
    """We were told to end by this signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def note_signals() -> None:
    """Let Ctrl-C, TERM and HUP end the next wait, not whatever line is at work; a second one changes nothing."""
    for number in ENDINGS:
        signal.signal(number, _note)


def ignore_signals() -> None:
    """Let nothing spoil the exit status, once all is stopped."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)


def _note(number: int, _frame: FrameType | None) -> None:
    global signalled_by
    signalled_by = signalled_by or number
    ending.set()


class Rest:
    """One server's REST interface: JSON in, JSON out; a problem is Trouble, in the server's own words."""

    def __init__(self, name: str, port: int, token_file: Path) -> None:
        self.name, self.port, self.token_file = name, port, token_file
        self.address = f"http://127.0.0.1:{port}"
        self._client = httpx.Client(base_url=self.address, timeout=15, trust_env=False)  # no proxy on the way to loopback

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", path, json=body)

    def is_up(self) -> bool:
        try:
            return self._client.get("/health").is_success
        except httpx.TransportError:
            return False

    def plainly(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Ask once. Raises OSError for the token's file, httpx.TransportError."""
        token = self.token_file.read_text().strip()
        return self._client.request(method, path, headers={"Authorization": f"Bearer {token}"}, **content)

    def _ask(self, method: str, path: str, **content: Any) -> Any:
        if ending.is_set():
            raise Signalled(signalled_by)
        try:
            answer = self.plainly(method, path, **content)
        except OSError as error:
            raise Trouble(f"cannot read the token of the {self.name}: {error}") from error
        except httpx.TransportError as error:
            raise Trouble(f"the {self.name} at {self.address} does not answer: {error!r}") from error
        if answer.is_success:
            return answer.json()
        problem = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        said = f"{problem.get('title', answer.reason_phrase)}: {problem.get('detail', answer.text[:500])}"
        lines = "".join(f"\n    {line}" for line in problem.get("last_lines") or [])
        raise Trouble(f"the {self.name} answered {method} {path} with {answer.status_code} ({said}){lines}")


class Stack:
    """An admin server and its sites, below one folder; a context manager that leaves no process behind.

    ports: the admin server listens on the first, the sites on the next ones, the SuperLink at + 1092 (8000 gives 9092).
    """

    def __init__(self, home: Path, port: int, site_names: tuple[str, ...]) -> None:
        self.home, self.port = home, port
        self.admin = Rest("admin server", port, home / "admin.token")
        self.sites = {
            name: Rest(f"client server of {name}", port + 1 + number, home / "sites" / name / "site.token")
            for number, name in enumerate(site_names)
        }
        self._children: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}

    @property
    def servers(self) -> tuple[Rest, ...]:
        return (self.admin, *self.sites.values())

    def __enter__(self) -> Self:
        for server in self.servers:
            if is_taken(server.port):
                raise Trouble(f"port {server.port} is in use by {owner_of(server.port)}: end that, or choose --ports.")
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.home / "demo").mkdir(mode=0o700, exist_ok=True)
            self._lock = (self.home / "demo" / "lock").open("a")
        except OSError as error:
            raise Trouble(f"cannot write to {self.home}: {error.strerror}; choose another folder with --home.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Trouble(f"another demo is at work in {self.home}; end it, or choose others with --home and --ports.") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._stop()
        finally:
            self._lock.close()

    def start(self) -> None:
        """Start all servers and wait until each answers."""
        threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "MKL_NUM_THREADS": "1"}  # of the ServerApp
        ours = {"ESPALIER_HOME": str(self.home), "PYTHONUNBUFFERED": "1", **threads}
        superlink = {"SUPERLINK_PORT": str(self.port + 1092)}
        self._start(self.admin, "admin_server", {**ours, **superlink, "ADMIN_PORT": str(self.admin.port)})
        for name, site in self.sites.items():
            identity = {"PARTICIPANT_NODE_ID": name, "PARTICIPANT_NODE_NAME": name, "FORWARD_LOGS": "all"}
            data = {"DATA_DIRS": f"{self.home / 'sites' / name / 'data'}:{self.home / 'data'}:/usr/share/datasets"}
            self._start(site, "client_server", {**ours, **identity, **data, "CLIENT_PORT": str(site.port)})
        for server in self.servers:
            self.wait(f"the {server.name}", server.is_up, seconds=90)

    def wait(self, what: str, probe: Callable[[], bool], seconds: float, explain: Callable[[], str] = str) -> None:
        """Ask until the answer is yes; raises Signalled, or Trouble when a server died meanwhile or it takes too long.

        explain: says why it takes so long, as far as the servers know.
        """
        until = time.monotonic() + seconds
        while not self._asked(probe):
            if time.monotonic() > until:
                raise Trouble(f"{what} took longer than {seconds:.0f} s. {explain()}")
            if ending.wait(0.25):
                break
        if ending.is_set():
            raise Signalled(signalled_by)

    def _asked(self, probe: Callable[[], bool]) -> bool:
        """Ask; a server that has ended is a better explanation than the silence that it leaves."""
        try:
            answer = probe()
        except Trouble:
            self._see_all_alive()
            raise
        self._see_all_alive()
        return answer

    def _see_all_alive(self) -> None:
        for name, (child, log) in self._children.items():
            if child.poll() is not None:
                code = child.returncode
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                raise Trouble(f"the {name} {how}; the end of {log}:{last_lines(log)}")

    def _start(self, server: Rest, module: str, settings: dict[str, str]) -> None:
        log = self.home / "demo" / f"{server.name.replace(' ', '-')}.log"
        passed_on = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        with log.open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=Path(__file__).parent,
                env=passed_on | settings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[server.name] = (child, log)

    def _end_run(self) -> None:
        """Ask for the end of a run that is at work, so that it is recorded as stopped and no site is blamed."""
        if self.admin.name in self._children:
            with suppress(httpx.HTTPError, OSError):
                self.admin.plainly("POST", "/runs/stop", json={})

    def _stop(self) -> None:
        """TERM the sites, then the admin server, and give each time; KILL whatever then remains of us below our folder."""
        self._end_run()
        admin = self._children.pop(self.admin.name, None)
        for batch in ([child for child, _ in self._children.values()], [admin[0]] if admin else []):
            for child in batch:
                signal_group(child.pid, signal.SIGTERM)
            until = time.monotonic() + GRACE_S
            for child in batch:
                try:
                    child.wait(max(0.0, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    signal_group(child.pid, signal.SIGKILL)
                    child.wait()
        if admin or self._children:
            sweep(self.home)


def sweep(home: Path, patience_s: float = 5.0) -> None:
    """TERM, then KILL, the group of every process that a proc.json below home names and that is still there."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = set(recorded(home))
        for pid in left:
            signal_group(os.getpgid(pid), number)
        until = time.monotonic() + patience_s
        while left and time.monotonic() < until:
            time.sleep(0.05)
            left &= set(recorded(home))


def recorded(home: Path) -> Iterator[int]:
    """Yield the pids of living processes in proc.json files below home: the same process, told by its start time, no zombie."""
    for folder, folders, files in os.walk(home):
        folders[:] = [name for name in folders if name not in ("data", "flwr-home", "commit", "models")]
        if "proc.json" not in files:
            continue
        try:
            record = json.loads(Path(folder, "proc.json").read_bytes())
            fields = Path(f"/proc/{record['pid']}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except (OSError, ValueError, KeyError):
            continue  # gone meanwhile, or not Linux: there only what the servers stop is stopped
        if fields[19] == record["start_mark"] and fields[0] not in "ZX":
            yield record["pid"]


def signal_group(group: int, number: signal.Signals) -> None:
    if group != os.getpgrp():
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return


def last_lines(log: Path, count: int = 12) -> str:
    return "".join(f"\n    {line}" for line in log.read_text(errors="replace").splitlines()[-count:])


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def owner_of(port: int) -> str:
    """Name the process that listens on a port, as far as /proc tells us."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            rows = (line.split() for line in Path(table).read_text().splitlines()[1:])
            inodes |= {row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link).removeprefix("socket:[").removesuffix("]") in inodes:
                command = Path("/proc", link.parts[2], "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                return f"`{command.strip()}` (pid {link.parts[2]})"
        except OSError:
            continue
    return "another process"
