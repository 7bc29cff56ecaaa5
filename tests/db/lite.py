"""@supabase/lite, an independent server of Supabase's REST interface, on the tests' own Postgres (tests/supabase_lite)."""

import asyncio
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db import migrate

ROOM = Path(__file__).parents[1] / "supabase_lite"
STUB = Path(migrate.__file__).parent / "supabase" / "local_stub.sql"
OLDEST_NODE = 20
QUIET = {"LITE_TELEMETRY": "0", "DO_NOT_TRACK": "1", "NO_UPDATE_NOTIFIER": "1"}
INSTALL = ["npm", "ci", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]


class LiteMissing(Exception):
    """There is no node here that could run it."""


@dataclass(frozen=True)
class Lite:
    """A running server: a database of the tests' Postgres is at url_of(its name)."""

    address: str
    secret_key: str
    publishable_key: str

    def url_of(self, database: str) -> str:
        """Give what SUPABASE_URL would be for a database."""
        return f"{self.address}/{database}"


def install() -> None:
    """Install what package-lock.json names, once for each lock (50 s, 148 MB). Raises LiteMissing."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        raise LiteMissing("there is no node and npm")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        raise LiteMissing(f"node is {version}, and @supabase/lite needs {OLDEST_NODE}")
    lock, stamp = (ROOM / "package-lock.json").read_text("utf-8"), ROOM / "node_modules" / ".espalier-lock.json"
    with (ROOM / "package.json").open() as only_one:
        fcntl.flock(only_one, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text("utf-8") == lock:
            return
        done = subprocess.run(INSTALL, cwd=ROOM, env=os.environ | QUIET, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"npm cannot install @supabase/lite: {done.stderr.strip()[-300:]}")
        stamp.write_text(lock, "utf-8")


@contextmanager
def running(server_dsn: str, again: Lite | None = None) -> Iterator[Lite]:
    """Run it over every database of a Postgres that `prepare` has made; it ends with us, however we end.

    again: one that has ended, whose address and keys this one takes.
    """
    secret_key = again.secret_key if again else f"sb_secret_{secrets.token_hex(16)}"
    publishable_key = again.publishable_key if again else f"sb_publishable_{secrets.token_hex(16)}"
    port = int(again.address.rpartition(":")[2]) if again else 0
    told = {"server": _as_lite_rest(server_dsn), "port": port, "secretKey": secret_key, "publishableKey": publishable_key}
    process = subprocess.Popen(
        ["node", "server.mjs"],
        cwd=ROOM,
        env={"PATH": os.environ["PATH"], "ESPALIER_LITE": json.dumps(told), **QUIET},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # lite prints every refusal there
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        said = process.stdout.readline().split()
        assert said[:2] == ["listening", "on"], said
        yield Lite(f"http://127.0.0.1:{said[2]}", secret_key, publishable_key)
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def prepare(server_dsn: str, name: str, *, migrated: bool = True) -> str:
    """Make a database as a Supabase project is, with our schema or still without it, and give its owner's DSN."""
    dsn = make_conninfo(server_dsn, dbname=name)
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(STUB.read_bytes())
    if migrated:
        asyncio.run(migrate.apply(dsn, supabase=True))
        with psycopg.connect(dsn, autocommit=True) as connection:
            # lite grants all on sequences too: by whoever has no right at all on one that is an error, else a warning.
            connection.execute("grant usage on all sequences in schema public to lite_rest")
    return dsn


def empty(dsn: str) -> None:
    """Delete every row of every table of ours, and what a test may have set for the database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            """
            do $$
            begin
              execute (select 'truncate ' || string_agg(format('public.%I', tablename), ', ') || ' restart identity'
                from pg_tables where schemaname = 'public');
              execute format('alter database %I reset all', current_database());
            end
            $$
            """
        )


def _as_lite_rest(server_dsn: str) -> str:
    """Make the role that lite connects as, and give its URL: it may become Supabase's roles, owns nothing and grants nothing."""
    given = conninfo_to_dict(server_dsn)
    password = hashlib.sha256(str(given["password"]).encode()).hexdigest()  # the same for all that run over one Postgres
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(STUB.read_bytes())
        if connection.execute("select from pg_roles where rolname = 'lite_rest'").fetchone() is None:
            connection.execute(
                sql.SQL("create role lite_rest login password {} in role anon, authenticated, service_role").format(password)
            )
    return f"postgres://lite_rest:{password}@{quote(str(given['host']), safe='')}:{given['port']}/"
