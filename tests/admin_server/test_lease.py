"""One server writes: a second one on the same project reads, says who holds it, and takes over."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from admin_server.app import create_app
from admin_server.settings import Settings

from tests.admin_server.admin_app import Server, client_of


@pytest.fixture
def quiet_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server looks at its lease by itself, and so takes it back in the middle of a test."""
    monkeypatch.setattr("admin_server.app.RENEW_S", 3600)


async def test_a_second_server_reads_names_the_holder_and_takes_over(
    quiet_leases: None, server: Server, settings: Settings, tmp_path: Path
) -> None:
    other = settings.model_copy(update={"espalier_home": tmp_path / "other"})
    app = create_app(other)
    async with app.router.lifespan_context(app) as state:
        assert state is not None
        token = (tmp_path / "other" / "admin.token").read_text().strip()
        second = client_of(app, dict(state), token)
        assert (await second.get("/runs")).status_code == 200
        assert (await second.get("/health")).json()["lease"]["held"] is False
        answer = await second.post("/runs/start", json={})
        assert answer.status_code == 503
        assert answer.json()["type"].endswith("#read-only")
        assert answer.json()["host"] == (await server.admin.get("/health")).json()["lease"]["host"]
        assert int(answer.headers["retry-after"]) > 0
        await lose_and_take(server, second, dict(state)["server"].lease.look)


async def lose_and_take(first: Server, second: httpx.AsyncClient, look: Callable[[], Awaitable[None]]) -> None:
    await first.state["server"].lease.release()
    await look()
    assert (await second.get("/health")).json()["lease"]["held"] is True
    answer = await second.post("/runs/stop")
    assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (409, "no-active-run")
    assert (await first.admin.post("/runs/stop")).status_code == 503


async def test_a_restarted_server_takes_its_own_lease_at_once(settings: Settings) -> None:
    for _ in range(2):
        app = create_app(settings)
        async with app.router.lifespan_context(app) as state:
            assert state is not None
            assert dict(state)["server"].lease.held
            # as after kill -9: the lease is not given back
            dict(state)["server"].lease.held = False
