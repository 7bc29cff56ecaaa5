"""A Postgres with Supabase's roles, and one with the overlay and people who log in."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from db import migrate
from tests.contract.people import Connection, World, fill

STUB = Path(migrate.__file__).parent / "supabase" / "local_stub.sql"


@pytest.fixture
def plain(database_url: str) -> Iterator[Connection]:
    """Give the base schema on a Postgres that has Supabase's roles."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(STUB.read_bytes())
        connection.execute("select espalier.set_rights()")
        yield connection


@pytest.fixture(scope="session")
def _people(postgres_server: str) -> tuple[str, World]:
    """Make one database with the overlay and two projects; 2 s, too long for each test."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("create database people")
    url = make_conninfo(postgres_server, dbname="people")
    with psycopg.connect(url) as connection:
        connection.execute(STUB.read_bytes())
    asyncio.run(migrate.apply(url, supabase=True))
    return url, fill(url)


@pytest.fixture
def world(_people: tuple[str, World]) -> World:
    """Give the names in `overlaid`."""
    return _people[1]


@pytest.fixture
def overlaid(_people: tuple[str, World]) -> Iterator[Connection]:
    """Give the filled database with the overlay, in a transaction of which nothing stays."""
    with psycopg.connect(_people[0], autocommit=True) as connection, connection.transaction(force_rollback=True):
        yield connection
