"""db/supabase is a project as Supabase's CLI wants it: `npx supabase --workdir db db push`."""

import re
import tomllib
from pathlib import Path

from db import migrate
from tests.contract.people import Connection, each

PROJECT = Path(migrate.__file__).parent / "supabase"


def test_each_migration_is_there_as_a_link() -> None:
    for one in migrate.migrations():
        link = PROJECT / "migrations" / one.path.name
        assert link.is_symlink(), f"ln -s ../../migrations/{one.path.name} db/supabase/migrations/"
        assert link.resolve() == one.path.resolve()
    assert {path.name for path in PROJECT.glob("*")} - {".temp"} == {"config.toml", "local_stub.sql", "migrations", "seed.sql"}


def test_the_configuration_exposes_public_alone_and_grants_nothing_by_itself() -> None:
    config = tomllib.loads((PROJECT / "config.toml").read_text())
    assert config["project_id"] == "espalier"
    assert config["api"] == {"schemas": ["public"], "max_rows": 1000, "auto_expose_new_tables": False}
    assert [PROJECT / path for path in config["db"]["seed"]["sql_paths"]] == [PROJECT / "seed.sql"]
    assert config["auth"]["enable_signup"] is False


def test_no_migration_needs_what_the_cli_does_not_give() -> None:
    """It runs each file as one implicit transaction, so none may bring its own."""
    for one in migrate.migrations(supabase=True):
        assert not re.search(r"^(begin|commit|rollback)\s*;", one.path.read_text(), re.MULTILINE | re.IGNORECASE), one.name


def test_the_seed_gives_pages_something_to_show_once(plain: Connection) -> None:
    for _ in range(2):
        plain.execute((PROJECT / "seed.sql").read_bytes())
        shown = each(plain, "select concat_ws(' ', status, rounds_done, loss, warnings) from run_overview")
        assert shown == ["completed 2 0.7 0"]
