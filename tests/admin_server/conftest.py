"""The admin server in this process, on a fresh database."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from admin_server.app import create_app
from admin_server.settings import Settings

from tests.admin_server.admin_app import Server, client_of
from tests.admin_server.s3_server import S3Server, credentials


@pytest.fixture(scope="session")
def _s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Run one S3 server for the whole session (1 s to start)."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture
def s3(_s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
    """Give an S3 server with an empty bucket, and boto3 its credentials. A test may stop it."""
    credentials(monkeypatch, tmp_path)
    _s3.start()
    _s3.empty()
    return _s3


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
