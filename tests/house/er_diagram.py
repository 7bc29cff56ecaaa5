"""The ER diagram in docs/schema.md, made from the schema: `python tests/house/er_diagram.py` writes it."""

import asyncio
import re
import tempfile
from pathlib import Path
from typing import Any

import psycopg

from db import migrate
from db.embedded import EmbeddedPostgres

PAGE = Path(__file__).resolve().parents[2] / "docs" / "schema.md"
BLOCK = re.compile(r"```mermaid\nerDiagram\n.*?```\n", re.DOTALL)

# A child that may be there once has a unique index on the referring columns alone; a parent that may be missing, a null in them.
RELATIONS = """
    select k.confrelid::regclass::text, k.conrelid::regclass::text, string_agg(a.attname, ', ' order by a.attnum),
      bool_or(not a.attnotnull),
      exists (select from pg_index i
        where i.indrelid = k.conrelid and i.indisunique and i.indpred is null and i.indnatts = cardinality(k.conkey)
        and (string_to_array(i.indkey::text, ' ')::int2[]) @> k.conkey)
    from pg_constraint k join pg_attribute a on a.attrelid = k.conrelid and a.attnum = any (k.conkey)
    where k.contype = 'f' and k.connamespace = 'public'::regnamespace
    group by k.oid, k.confrelid, k.conrelid, k.conkey order by 1, 2, 3
"""
COLUMNS = """
    select c.relname, regexp_replace(format_type(a.atttypid, null), ' .*', ''), a.attname,
      concat_ws(', ', case when k.types ~ 'p' then 'PK' end, case when k.types ~ 'f' then 'FK' end)
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    cross join lateral (
      select string_agg(k.contype, '') as types from pg_constraint k where k.conrelid = c.oid and a.attnum = any (k.conkey)) k
    where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace
      and (k.types ~ '[pf]' or a.attname in ('status', 'role', 'kind', 'name', 'slug', 'round', 'external_id', 'flower_run_id'))
    order by 1, a.attnum
"""


def diagram(connection: psycopg.Connection[Any]) -> str:
    """Draw tables with what they are known by, and the references between them."""
    lines = ["```mermaid", "erDiagram"]
    for parent, child, columns, may_miss, once in connection.execute(RELATIONS.encode()):
        lines.append(f'    {parent} {"|o" if may_miss else "||"}--{"o|" if once else "o{"} {child} : "{columns}"')
    tables: dict[str, list[str]] = {}
    for table, kind, column, keys in connection.execute(COLUMNS.encode()):
        tables.setdefault(table, []).append(f"        {kind} {column} {keys}".rstrip())
    for table, columns in tables.items():
        lines += [f"    {table} {{", *columns, "    }"]
    return "\n".join([*lines, "```", ""])


def drawn(page: str, block: str) -> str:
    """Put a diagram in the place of the page's."""
    return BLOCK.sub(lambda _: block, page)


async def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        postgres = EmbeddedPostgres(Path(place), durable=False)
        url = await postgres.start()
        try:
            await migrate.apply(url)
            with psycopg.connect(url) as connection:
                PAGE.write_text(drawn(PAGE.read_text("utf-8"), diagram(connection)), "utf-8")
        finally:
            await postgres.stop()


if __name__ == "__main__":
    asyncio.run(main())
