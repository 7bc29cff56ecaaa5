"""Supabase by the environment: what is refused before anything is sent."""

import pytest
from admin_server.database import Database
from admin_server.feed import Feed
from admin_server.settings import Settings
from pydantic import ValidationError

from db.errors import DatabaseUnavailable

URL, KEY = "https://abc.supabase.co", "sb_secret_abc"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"supabase_url": URL}, "go together"),
        ({"supabase_key": KEY}, "go together"),
        ({"supabase_url": URL, "supabase_key": KEY, "database_url": "postgresql://x"}, "two ways"),
        ({"supabase_url": URL, "supabase_key": "sb_publishable_abc"}, "publishable"),
        ({"supabase_url": "http://abc.supabase.co", "supabase_key": KEY}, "https"),
        ({"supabase_url": "abc.supabase.co", "supabase_key": KEY}, "https"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_start(given: dict[str, str], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason) as refused:
        Settings.model_validate(given)
    assert "sb_" not in str(refused.value).replace("sb_secret_…", "")


async def test_a_project_that_cannot_be_reached_is_a_database_that_is_away() -> None:
    settings = Settings.model_validate({"supabase_url": "http://127.0.0.1:1", "supabase_key": KEY})
    database = Database(settings, Feed())
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        await database.open()
    await database.close()
