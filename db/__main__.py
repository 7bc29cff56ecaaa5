"""`python -m db migrate|status|doctor|assemble`: prepare and examine a database from the command line."""

import argparse
import asyncio
import os
import sys

from db import doctor, migrate
from db.errors import DatabaseError


def main(argv: list[str] | None = None) -> int:
    """Run one verb; 0 when all is well, 1 when the database is behind, not well or refuses, 2 for wrong use."""
    arguments = _parser().parse_args(argv)
    verbs = {"migrate": _migrate, "status": _status, "doctor": _doctor}
    if arguments.verb == "assemble":
        migrate.schema_file().write_text(migrate.assembled())
        return 0
    if not arguments.database_url:
        print(
            "No database is named: set DATABASE_URL or give --database-url. (The embedded one is migrated by the admin server.)",
            file=sys.stderr,
        )
        return 2
    try:
        return asyncio.run(verbs[arguments.verb](arguments))
    except DatabaseError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m db", description=__doc__)
    parser.add_argument("verb", choices=["migrate", "status", "doctor", "assemble"])
    parser.add_argument("--database-url", default=os.environ.get("DATABASE_URL"), help="default: DATABASE_URL")
    return parser


async def _migrate(arguments: argparse.Namespace) -> int:
    applied = await migrate.apply(arguments.database_url, supabase=await _has_overlay(arguments.database_url))
    for one in applied:
        print(f"applied {one.version} {one.name}")
    print(f"The database has schema {migrate.latest_version()}.")
    return 0


async def _status(arguments: argparse.Namespace) -> int:
    found = await migrate.status(arguments.database_url, supabase=await _has_overlay(arguments.database_url))
    for one in found.pending:
        print(f"pending {one.version} {one.name}")
    has = f"schema {found.found}" if found.found else "no schema"
    told = f"The database has {has}; this code needs {found.expected}"
    if found.pending and not found.is_there_already:
        print(f"{told}: run `python -m db migrate`.")
    elif found.pending or found.found != found.expected:
        print(f"{told}: ask `python -m db doctor`.")
    else:
        print(f"{told}.")
        return 0
    return 1


async def _has_overlay(dsn: str) -> bool:
    async with await migrate.connect(dsn) as connection:
        return await migrate.is_supabase(connection)


async def _doctor(arguments: argparse.Namespace) -> int:
    findings = await doctor.examine(arguments.database_url)
    for one in findings:
        print(f"ok     {one.about}" if one.wrong is None else f"wrong  {one.about}: {one.wrong}: {one.advice}")
    return 1 if any(one.wrong for one in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
