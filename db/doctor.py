"""Looking at a database: is it as this code needs it, and if not, what is wrong and what is to be done?"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from db import migrate
from db.errors import SchemaMismatch

SKEW_S = 2.0  # a lease is 15 s and a node is lost after some more: 2 s take nothing away from either
# File in examination/ -> what to do. Each query gives a row for each thing that is wrong.
_ADVICE = {
    "grants": "run `select espalier.set_rights();` as the owner",
    "row_security": "run `alter table … enable row level security`, `alter view … set (security_invoker = true)`",
    "policies": "drop it, or make it as in db/supabase/migrations/20261122090100_participants.sql",
    "realtime": "run `alter publication supabase_realtime add table …`, or `drop table …` (create the publication first)",
}
_ON_SUPABASE = ("policies", "realtime")
_QUERIES = Path(__file__).parent / "examination"
_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; wrong is None where it is well, and advice says what to do."""

    about: str
    wrong: str | None = None
    advice: str = ""


async def examine(dsn: str, clock: Callable[[], float] = time.time) -> list[Finding]:
    """Look at schema, grants, row security, realtime publication and clock; changes nothing.

    clock: seconds since 1970 of this machine. Raises DatabaseUnavailable.
    """
    async with await migrate.connect(dsn) as connection:
        is_supabase = bool(await migrate.one(connection, "select to_regclass('auth.users') is not null"))
        findings = [await _schema(connection, is_supabase), await _clock(connection, clock)]
        if findings[0].wrong is None:
            asked = [about for about in _ADVICE if is_supabase or about not in _ON_SUPABASE]
            findings += [await _asked(connection, about) for about in asked]
    return findings


async def _schema(connection: migrate.Connection, is_supabase: bool) -> Finding:
    try:
        found = await migrate.status_of(connection, supabase=is_supabase)
    except SchemaMismatch as mismatch:
        return Finding("schema", str(mismatch), "update Espalier")
    command = "python -m db migrate" + (" --supabase" if is_supabase else "")
    if found.pending:
        names = ", ".join(one.path.stem for one in found.pending)
        return Finding("schema", f"{found.found or 'no schema'} is there, and not applied is {names}", f"run `{command}`")
    if found.found != found.expected:
        told = f"the history has every migration, and schema_version() says {found.found}, not {found.expected}"
        return Finding("schema", told, "restore the database from its backup: it was changed by hand")
    return Finding("schema")


async def _clock(connection: migrate.Connection, clock: Callable[[], float]) -> Finding:
    before = clock()
    there = await migrate.one(connection, "select extract(epoch from clock_timestamp())::double precision")
    after = clock()
    ahead_s = float(str(there)) - (before + after) / 2
    if abs(ahead_s) <= SKEW_S + (after - before) / 2:
        return Finding("clock")
    way = "ahead of" if ahead_s > 0 else "behind"
    return Finding("clock", f"the database's is {abs(ahead_s):.1f} s {way} this machine's", "let NTP set both")


async def _asked(connection: migrate.Connection, about: str) -> Finding:
    rows = await (await connection.execute((_QUERIES / f"{about}.sql").read_bytes())).fetchall()
    wrong = [str(row[0]) for row in rows]
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return Finding(about, "; ".join(wrong[:_SHOWN]) + more, _ADVICE[about]) if wrong else Finding(about)
