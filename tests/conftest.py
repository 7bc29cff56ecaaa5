"""What every test may ask for: a real Postgres, a fresh migrated database on it, a Store on that."""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from db import migrate
from db.embedded import EmbeddedPostgres
from db.postgres_door import PostgresDoor
from db.store import Store
from tests.db import lite

_TEMPLATE = "espalier_template"
_numbers = itertools.count(1)


def pytest_configure() -> None:
    """Let TERM end the tests as Ctrl-C does, so that fixtures take along the processes that they started."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Run an embedded Postgres for the whole session and give its DSN."""
    memory = _memory_place()
    for forgotten in memory.glob("espalier-tests-*"):
        if not psutil.pid_exists(int(forgotten.name.rpartition("-")[2])):
            _remove(forgotten)
    place = memory / f"espalier-tests-{os.getpid()}"
    try:
        yield asyncio.run(EmbeddedPostgres(place, durable=False).start())
    finally:
        _remove(place)


def _memory_place() -> Path:
    """Prefer a memory file system: a database is some 450 files, 60 ms there and up to 2 s on a busy disk."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 2**30
    return shared if roomy else Path(tempfile.gettempdir())


def _remove(place: Path) -> None:
    with contextlib.suppress(PermissionError):  # another user's, forgotten: theirs to remove
        asyncio.run(EmbeddedPostgres(place).stop())
        shutil.rmtree(place)


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """Give a folder like tmp_path, on a memory file system where there is one: for a Postgres of the test's own."""
    folder = Path(tempfile.mkdtemp(dir=_memory_place(), prefix="espalier-test-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def _template(postgres_server: str) -> str:
    """Migrate one database, of which every test gets a copy (about 60 ms instead of 250 ms)."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(_TEMPLATE)))
    asyncio.run(migrate.apply(make_conninfo(postgres_server, dbname=_TEMPLATE)))
    return _TEMPLATE


@pytest.fixture
def fresh_database_url(postgres_server: str, _template: str) -> Iterator[str]:
    """Give the DSN of a fresh migrated database."""
    with _copied(postgres_server, _template) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def module_database_url(postgres_server: str, _template: str) -> Iterator[str]:
    """Give the same for the tests of a module together."""
    with _copied(postgres_server, _template) as dsn:
        yield dsn


@contextlib.contextmanager
def _copied(postgres_server: str, template: str) -> Iterator[str]:
    name = sql.Identifier(f"test_{next(_numbers)}")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template {}").format(name, sql.Identifier(template)))
        yield make_conninfo(postgres_server, dbname=name.as_string(None).strip('"'))
        connection.execute(sql.SQL("drop database {} with (force)").format(name))


@pytest.fixture(scope="session")
def lite_server(postgres_server: str) -> Iterator[lite.Lite]:
    """Run @supabase/lite for the whole session."""
    try:
        lite.install()
    except lite.LiteMissing as missing:
        pytest.skip(f"no @supabase/lite to stand in for Supabase: {missing}")
    with lite.running(postgres_server) as server:
        yield server


@pytest.fixture
def database_url(fresh_database_url: str) -> str:
    """Give the DSN of the database that a test is about."""
    return fresh_database_url


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """Give a Store on a fresh database."""
    door = PostgresDoor(database_url)
    await door.open()
    yield Store(door)
    await door.close()
