"""Looking at a database: is it as this code needs it, and if not, what is wrong and what is to be done?"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from db import migrate
from db.errors import SchemaMismatch

SKEW_S = 2.0  # a lease is 15 s and a node is lost after some more: 2 s take nothing away from either
_RESTORE = "restore the database from its backup: it was changed by hand"
# File in examination/ -> what to do about a row that brings no cure. Each query gives a row (what is wrong, cure as SQL or
# null) for each thing that is wrong.
_ADVICE = {
    "grants": "run `select espalier.set_rights();` as the owner",
    "row_security": "",
    "policies": "make it again as in db/supabase/migrations",
    "realtime": "",
}
_ON_SUPABASE = ("policies", "realtime")
_QUERIES = Path(__file__).parent / "examination"
_SHOWN = 5
_GONE = """
select name || ' is gone' from unnest(%s::text[]) as name
where to_regclass(name) is null and not exists (
  select from pg_proc p join pg_namespace n on n.oid = p.pronamespace where concat(n.nspname, '.', p.proname) = name)
order by 1
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; wrong is None where it is well, and advice says what to do."""

    about: str
    wrong: str | None = None
    advice: str = ""


async def examine(dsn: str, clock: Callable[[], float] = time.time) -> list[Finding]:
    """Look at schema, grants, row security, realtime publication and clock; changes nothing.

    clock: seconds since 1970 of this machine. Raises DatabaseUnavailable, and DatabaseError where the user may not look.
    """
    async with await migrate.connect(dsn) as connection:
        is_supabase = await migrate.is_supabase(connection)
        findings = [await _schema(connection, is_supabase), await _clock(connection, clock)]
        if findings[0].wrong is None:
            asked = [about for about in _ADVICE if is_supabase or about not in _ON_SUPABASE]
            findings += [await _asked(connection, about) for about in asked]
    return findings


async def _schema(connection: migrate.Connection, is_supabase: bool) -> Finding:
    try:
        found = await migrate.status_of(connection, supabase=is_supabase)
    except SchemaMismatch as mismatch:
        told = f"the database has schema {mismatch.found}, newer than this code's {mismatch.expected}"
        return Finding("schema", told, "update Espalier")
    if found.pending:
        names = ", ".join(one.path.stem for one in found.pending)
        if found.is_there_already:
            told = f"the database has schema {found.found}, and its history lacks {names}"
            return Finding("schema", told, f"run `{migrate.as_applied(found.pending)}` as the owner")
        has = f"has schema {found.found} and lacks" if found.found else "has no schema: it lacks"
        return Finding("schema", f"the database {has} {names}", "run `python -m db migrate`")
    if found.found != found.expected:
        told = f"the history has every migration, and schema_version() says {found.found}, not {found.expected}"
        return Finding("schema", told, _RESTORE)
    gone = [str(row[0]) for row in await migrate.fetched(connection, _GONE, [_made_by_schema()])]
    return Finding("schema", _listed(gone), _RESTORE) if gone else Finding("schema")


def _made_by_schema() -> list[str]:
    """Name every table, view and function that schema.sql makes."""
    return re.findall(r"^create (?:table|view|function) (\w+\.\w+)", migrate.schema_file().read_text(), re.MULTILINE)


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
    rows = await migrate.fetched(connection, (_QUERIES / f"{about}.sql").read_text())
    if not rows:
        return Finding(about)
    cures = [str(cure) for _, cure in rows if cure is not None]
    advice = [f"run `{' '.join(cures)}`"] if cures else []
    advice += [_ADVICE[about]] if len(cures) < len(rows) else []
    return Finding(about, _listed([str(wrong) for wrong, _ in rows]), ", and ".join(advice))


def _listed(wrong: list[str]) -> str:
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return "; ".join(wrong[:_SHOWN]) + more
