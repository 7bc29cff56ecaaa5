"""The embedded Postgres: real server programs under our own supervision, with nothing to install or set.

start() ── data there? ─no─▶ initdb ─▶ spawn ─▶ accepts ──▶ running ──stop()──▶ fast shutdown
   │                                     ▲
   └─ its postmaster lives ─▶ adopt      └─ killed -9: start() again, same data, same port
"""

import asyncio
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg

from db.binaries import binaries, major_version
from db.errors import DatabaseFull, EmbeddedPostgresFailed, from_sqlstate, unreachable
from db.files import in_words, write_whole
from db.postmaster import Postmaster, adopt_child, clear_lock, users_of
from db.unprivileged import RunAs, Runner, runner

_START_S = 60.0  # recovery after a kill took up to 5.6 s on a loaded machine
_LOCK_S = 10.0  # backends of a killed postmaster end within seconds
_STOP_S = 30.0
_POLL_S = 0.05


class EmbeddedPostgres:
    """A Postgres of its own in state_dir: data/, password (0600), port, proc.json, postgres.log."""

    def __init__(
        self, state_dir: Path, *, bin_folder: Path | None = None, durable: bool = True, run_as: RunAs | None = None
    ) -> None:
        """durable=False does not wait for the disk, so that a power cut (not a kill) loses rows: for tests."""
        self._dir = state_dir.absolute()
        self._bin = bin_folder or binaries()
        self._durable, self._run_as = durable, run_as or RunAs()
        self._proc = self._dir / "proc.json"
        self.log_path = self._dir / "postgres.log"

    async def start(self) -> str:
        """Start it, or adopt it when it runs, and give the DSN of its database `espalier`.

        Raises DatabaseFull, and EmbeddedPostgresFailed, with the log's last lines, or because the data is another major
        version's.
        """
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with in_words(self._dir):
            async with _only_one(self._dir / "start.lock"):
                await self._start()
        return self._dsn("espalier")

    def is_running(self) -> bool:
        """Is the postmaster alive? A zombie is dead."""
        postmaster = Postmaster.read(self._proc)
        return postmaster is not None and postmaster.is_alive()

    async def stop(self) -> None:
        """Shut down fast: open transactions are rolled back, nothing that was acknowledged is lost."""
        postmaster = self._found(self._runner())
        if postmaster is not None:
            for number, seconds in ((signal.SIGINT, _STOP_S), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
                postmaster.signal(number)
                if await _ended(postmaster, seconds):
                    break
        self._proc.unlink(missing_ok=True)

    async def _start(self) -> None:
        run = self._runner()
        run.prepare()
        self._refuse_foreign(run)
        postmaster = self._found(run)
        if postmaster is not None and await self._accepts(postmaster):
            postmaster.write(self._proc)
            return
        if not (run.data / "PG_VERSION").exists():
            await asyncio.to_thread(self._initdb, run)
        await self._spawn(run)

    def _runner(self) -> Runner:
        return runner(self._bin, self._dir / "data", self._run_as)

    def _found(self, run: Runner) -> Postmaster | None:
        """Find its living postmaster: by proc.json, else (we were killed before it was written) by the data directory."""
        postmaster = Postmaster.read(self._proc)
        return postmaster if postmaster is not None and postmaster.is_alive() else Postmaster.of_data(run.data)

    def _refuse_foreign(self, run: Runner) -> None:
        """Refuse data that these programs cannot read or that we have no password for."""
        version, ours = run.data / "PG_VERSION", major_version(self._bin)
        if not version.exists():
            return
        if (found := int(version.read_text())) != ours:
            raise EmbeddedPostgresFailed(
                f"{run.data} holds data of Postgres {found}, the embedded programs are {ours}: "
                f"dump it with Postgres {found} and load it into a new one, or install the Espalier that wrote it."
            )
        if not (self._dir / "password").exists():
            raise EmbeddedPostgresFailed(f"{self._dir / 'password'} is gone: put it back, or move {run.data} away.")

    def _initdb(self, run: Runner) -> None:
        """Make the data directory beside its place and move it there, so that a kill in the middle leaves nothing half."""
        draft, password = run.data.with_name("data.new"), run.data.with_name("password.new")
        shutil.rmtree(draft, ignore_errors=True)
        password.touch(mode=0o600)
        password.write_text(self._password())
        run.give(password)
        made = subprocess.run(
            run.command(
                "initdb",
                f"--pgdata={draft}",
                "--username=postgres",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
                *([] if self._durable else ["--no-sync"]),
            ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",
            env=_environment(),
            user=run.user,
            group=run.user,
        )
        password.unlink()
        if made.returncode != 0:
            raise EmbeddedPostgresFailed(f"initdb failed: {made.stderr.strip()[-2000:]}")
        draft.rename(run.data)

    async def _spawn(self, run: Runner) -> None:
        await _clear(run.data)
        for _ in range(3):
            self._choose_port()
            if await self._accepts(self._popen(run)):
                return
            # Somebody took the port between our look and the bind; anything else is final.
            if not _is_taken(self._port()):
                break
        raise EmbeddedPostgresFailed("The embedded Postgres did not start:\n" + self._last_lines())

    def _popen(self, run: Runner) -> Postmaster:
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                run.command(
                    "postgres", "-D", str(run.data), "-p", str(self._port()), *_settings(major_version(self._bin), self._durable)
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=_environment(),
                start_new_session=True,
                user=run.user,
                group=run.user,
            )
        postmaster = Postmaster.of(process.pid)
        adopt_child(process)
        if postmaster is None:
            raise EmbeddedPostgresFailed("The embedded Postgres died at its start:\n" + self._last_lines())
        postmaster.write(self._proc)
        return postmaster

    async def _accepts(self, postmaster: Postmaster) -> bool:
        """Wait until it takes a connection and has the database `espalier`; False when it died."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            try:
                async with await psycopg.AsyncConnection.connect(self._dsn("postgres"), autocommit=True) as connection:
                    known = await connection.execute("select 1 from pg_database where datname = 'espalier'")
                    if await known.fetchone() is None:
                        await connection.execute("create database espalier")
                return True
            except psycopg.OperationalError as error:
                if "password authentication failed" in str(error):
                    raise EmbeddedPostgresFailed(f"{self._dir / 'password'} is not this data's password.") from error
                told = from_sqlstate(error.sqlstate, "") if error.sqlstate else unreachable(str(error))
                if isinstance(told, DatabaseFull):
                    raise told from error
            if not postmaster.is_alive():
                return False
            await asyncio.sleep(_POLL_S)
        raise EmbeddedPostgresFailed(
            f"The embedded Postgres accepts no connection after {_START_S:.0f} s:\n" + self._last_lines()
        )

    def _password(self) -> str:
        path = self._dir / "password"
        if not path.exists():
            write_whole(path, secrets.token_urlsafe(24))
        return path.read_text()

    def _port(self) -> int:
        return int((self._dir / "port").read_text())

    def _choose_port(self) -> None:
        """Keep the port of the last start while it is free, so that DSNs stay good over a restart."""
        path = self._dir / "port"
        if not path.exists() or _is_taken(self._port()):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                write_whole(path, str(probe.getsockname()[1]))

    def _dsn(self, database: str) -> str:
        return f"postgresql://postgres:{self._password()}@127.0.0.1:{self._port()}/{database}"

    def _last_lines(self) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-20:])


def _settings(major: int, durable: bool) -> list[str]:
    chosen = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "shared_buffers": "32MB",
        "max_connections": "40",
        "max_wal_size": "256MB",
        "random_page_cost": "1.1",  # all of it fits in memory: walk an index rather than sort
        "autovacuum_naptime": "15s",  # a run's first lines are planned for soon
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    if major >= 18:
        chosen["io_method"] = "sync"  # no worker processes for a database of this size
    if not durable:
        chosen |= {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
    return [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


async def _clear(data: Path) -> None:
    """Make sure that nobody works in the data directory; backends that outlive their killed postmaster get 10 s, then KILL."""
    deadline = time.monotonic() + _LOCK_S
    while not await asyncio.to_thread(clear_lock, data):
        if time.monotonic() > deadline + _LOCK_S:
            raise EmbeddedPostgresFailed(f"{data} is in use by a Postgres that cannot be reached; end it first.")
        if time.monotonic() > deadline:
            for pid in users_of(data):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_POLL_S)


async def _ended(postmaster: Postmaster, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while postmaster.is_alive():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True


@asynccontextmanager
async def _only_one(path: Path) -> AsyncIterator[None]:
    """Let one process at a time start this Postgres."""
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_POLL_S)
        yield
