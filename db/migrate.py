"""Bringing a database to this code's schema, and putting schema.sql together from its parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from db.errors import DatabaseError, DatabaseFull, DatabaseReadOnly, SchemaMismatch, from_sqlstate, unreachable

Connection = psycopg.AsyncConnection[tuple[object, ...]]

_ROOM = Path(__file__).parent
_LOCK = 7_271_920_311  # any number that nobody else locks
_HEAD = "-- The whole schema. Written by `python -m db assemble` from tables/, functions/, views/ and rights.sql; edit those.\n"
# The history table of Supabase's CLI, so that `supabase db push` and this applier understand each other.
_HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (version text primary key, statements text[], name text);
"""
_HAS_HISTORY = (
    "select exists (select from pg_tables where schemaname = 'supabase_migrations' and tablename = 'schema_migrations')"
)
_NOTE = "insert into supabase_migrations.schema_migrations (version, name) values "
_FORM = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


@dataclass(frozen=True)
class Migration:
    """A file named <14 digits>_<name>.sql."""

    version: str
    name: str
    path: Path


@dataclass(frozen=True)
class Status:
    """What a database has (`found`, None without a schema) and what this code lacks there."""

    found: str | None
    expected: str
    pending: list[Migration]

    @property
    def is_there_already(self) -> bool:
        """Say whether the schema is as new as what the history lacks: somebody lost the history."""
        base = {one.version for one in migrations()}
        return any(one.version in base and one.version <= (self.found or "") for one in self.pending)


def migrations(*, supabase: bool = False) -> list[Migration]:
    """List the migrations in their order; supabase adds the overlay that needs Supabase's roles and auth."""
    paths = (_ROOM / "supabase" / "migrations" if supabase else _ROOM / "migrations").glob("*.sql")
    split = ((path.stem.partition("_"), path) for path in paths)
    return sorted((Migration(version, name, path) for (version, _, name), path in split), key=lambda one: one.version)


def latest_version() -> str:
    """Give the version that this code was written for."""
    return migrations()[-1].version


async def is_supabase(connection: Connection) -> bool:
    """Is it a Supabase project, which has users of its own? Asked of the catalogue, where nobody needs a right on them."""
    return bool(await one(connection, "select exists (select from pg_tables where schemaname = 'auth' and tablename = 'users')"))


async def apply(dsn: str, *, supabase: bool = False, up_to: str | None = None) -> list[Migration]:
    """Apply what is missing, each migration in its own transaction, and give it; two at once wait for each other.

    up_to: the last version to apply; None: the newest.
    Raises SchemaMismatch when the database is newer than this code, DatabaseUnavailable (its disk is full, it is read-only),
    DatabaseError.
    """
    applied: list[Migration] = []
    async with await connect(dsn) as connection:
        if not (await status_of(connection, supabase=supabase)).pending:
            return []  # not even the history's `create … if not exists`, which a standby refuses
        for migration in migrations(supabase=supabase):
            if up_to is not None and migration.version > up_to:
                break
            text = migration.path.read_text()
            try:
                async with connection.transaction():
                    # A lock of the transaction, not of the session: it holds behind a pooler too.
                    await connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
                    await connection.execute(_HISTORY)
                    if migration.version in await _known(connection):
                        continue
                    await connection.execute(text.encode())
                    await connection.execute(
                        "insert into supabase_migrations.schema_migrations (version, statements, name) values (%s, %s, %s)",
                        [migration.version, [text], migration.name],
                    )
            except psycopg.Error as error:
                known = from_sqlstate(error.sqlstate or "", "")
                if isinstance(known, DatabaseFull | DatabaseReadOnly):
                    raise known from error
                raise DatabaseError(f"Migration {migration.path.name} failed: {error}") from error
            applied.append(migration)
    return applied


async def status(dsn: str, *, supabase: bool = False) -> Status:
    """Say what the database has and what is pending, changing nothing. Raises SchemaMismatch when it is newer than this code."""
    async with await connect(dsn) as connection:
        return await status_of(connection, supabase=supabase)


def as_applied(those: Sequence[Migration]) -> str:
    """Give the SQL that writes migrations into the history without applying them."""
    rows = ", ".join(f"('{one.version}', '{one.name}')" for one in those)
    return f"{' '.join(_HISTORY.split())} {_NOTE}{rows};"


def assembled() -> str:
    """Put the parts together in the order in which Postgres has to read them."""
    parts = [path for folder in ("tables", "views", "functions") for path in sorted((_ROOM / folder).glob("*.sql"))]
    return _HEAD + "".join(f"\n{part.read_text()}" for part in [*parts, _ROOM / "rights.sql"])


def schema_file() -> Path:
    """Say where schema.sql is."""
    return _ROOM / "schema.sql"


async def connect(dsn: str) -> Connection:
    """Connect in autocommit. Raises DatabaseUnavailable, DatabaseFull, and DatabaseError for what is no connection string."""
    try:
        return await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise unreachable(f"The database cannot be reached: {_in_a_line(error)}") from error
    except psycopg.ProgrammingError:  # its text may repeat the password
        raise DatabaseError(f"That is no connection string: {_FORM} is one.") from None


async def status_of(connection: Connection, *, supabase: bool = False) -> Status:
    """Say the same of a database that is connected already."""
    found, expected = await _found(connection), latest_version()
    if found is not None and found > expected:
        raise SchemaMismatch(found, expected)
    known = await _known(connection)
    return Status(found, expected, [one for one in migrations(supabase=supabase) if one.version not in known])


async def _known(connection: Connection) -> set[object]:
    if not await one(connection, _HAS_HISTORY):
        return set()
    return {row[0] for row in await fetched(connection, "select version from supabase_migrations.schema_migrations")}


async def _found(connection: Connection) -> str | None:
    if not await one(connection, "select to_regprocedure('public.schema_version()')"):
        return None
    return str(await one(connection, "select public.schema_version()"))


async def one(connection: Connection, query: str) -> object:
    """Give the one value of a query, None without a row. Raises DatabaseError."""
    rows = await fetched(connection, query)
    return rows[0][0] if rows else None


async def fetched(connection: Connection, query: str, values: Sequence[object] | None = None) -> list[tuple[object, ...]]:
    """Give the rows of a query. Raises DatabaseError, in one sentence, for what this user may not look at."""
    try:
        return await (await connection.execute(query.encode(), values)).fetchall()
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseError(f"This user may not look ({error.diag.message_primary}): connect as the schema's owner.") from error
    except psycopg.Error as error:
        raise DatabaseError(f"The database cannot be examined: {_in_a_line(error)}") from error


def _in_a_line(error: psycopg.Error) -> str:
    return " ".join((error.diag.message_primary or str(error)).removeprefix("connection failed: ").split())
