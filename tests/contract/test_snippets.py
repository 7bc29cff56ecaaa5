"""The supabase-js snippets in docs/supabase.md name views, columns and filters that a participant may use."""

import re
from pathlib import Path

import pytest

from db import migrate
from tests.contract.people import A, Connection, World, each, read

PAGE = (Path(migrate.__file__).parents[1] / "docs" / "supabase.md").read_text("utf-8")
CALLS = re.findall(r"supabase\s*\.from\('(\w+)'\)\s*\.select\('([^']+)'\)([^\n]*)", PAGE)


def as_sql(view: str, columns: str, rest: str, run_id: str) -> str:
    """Say in SQL what PostgREST makes of such a call."""
    tests = [f"{name} = '{run_id}'" for name in re.findall(r"\.eq\('(\w+)', runId\)", rest)]
    tests += [f"{name} > -1000" for name in re.findall(r"\.gt\('(\w+)'", rest)]
    order = re.search(r"\.order\('(\w+)'\)", rest)
    page = f"select {columns} from {view} where {' and '.join(tests) or 'true'}" + (f" order by {order[1]}" if order else "")
    return f"select count(*) from ({page}) page"


@pytest.mark.parametrize(("view", "columns", "rest"), CALLS)
def test_a_snippet_works_for_a_participant(overlaid: Connection, world: World, view: str, columns: str, rest: str) -> None:
    run_id = next(key for key, name in world.names.items() if name == "run-p")
    (rows,) = read(overlaid, [as_sql(view, columns, rest, run_id)], "authenticated", A)
    assert int(rows) >= 1


def test_every_view_that_people_ask_for_has_its_snippet_and_every_followed_table_is_told(overlaid: Connection) -> None:
    assert {view for view, _, _ in CALLS} == {"run_overview", "round_table", "node_overview", "run_timeline", "run_size"}
    told = PAGE.partition("Realtime tells what changes slowly: ")[2].partition(". Not")[0]
    assert sorted(re.findall(r"`(\w+)`", told)) == each(
        overlaid, "select name from espalier.relations() where is_followed order by 1"
    )
