"""The admin server in this process, on a fresh database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from admin_server.app import create_app
from admin_server.settings import Settings

from tests.admin_server.admin_app import Server, client_of


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    apps = tmp_path / "apps"
    apps.mkdir()
    return Settings(espalier_home=tmp_path / "home", database_url=database_url, apps_dir=apps)


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[Server]:
    app = create_app(settings)
    async with app.router.lifespan_context(app) as state:
        token = (settings.espalier_home / "admin.token").read_text().strip()
        async with client_of(app, dict(state or {}), token) as admin:
            yield Server(app, dict(state or {}), admin, settings.espalier_home)
