"""The ER diagram in docs/schema.md is that of the schema."""

import psycopg

from tests.house import er_diagram


def test_the_diagram_is_that_of_the_schema(database_url: str) -> None:
    page = er_diagram.PAGE.read_text("utf-8")
    with psycopg.connect(database_url) as connection:
        now = er_diagram.diagram(connection)
        assert er_diagram.BLOCK.findall(page) == [now], "run `python tests/house/er_diagram.py`"
        connection.execute("create table public.more (run_id uuid not null unique references federated_runs)")
        assert '    federated_runs ||--o| more : "run_id"' in er_diagram.diagram(connection)
