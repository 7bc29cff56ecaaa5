"""Who holds the lease deletes what is older than LOG_RETENTION_DAYS, from its first moment on."""

import asyncio

import psycopg
from admin_server.app import create_app
from admin_server.settings import Settings

from db.store import Store


async def test_the_server_prunes_what_is_older_than_its_setting(settings: Settings, store: Store, database_url: str) -> None:
    lines = [{"source": "superlink", "text": text} for text in ("of last week", "of yesterday")]
    await store.append_log_lines(None, "superlink.log", 0, 1, lines)
    with psycopg.connect(database_url) as connection:
        connection.execute("update log_lines set received_at = now() - interval '8 days' where text = 'of last week'")
        connection.execute("update log_lines set received_at = now() - interval '1 day' where text = 'of yesterday'")
    app = create_app(settings.model_copy(update={"log_retention_days": 7.0}))
    async with app.router.lifespan_context(app), asyncio.timeout(30):
        while len(left := await store.rows("log_list")) > 1:
            pass
    assert [row["text"] for row in left] == ["of yesterday"]
