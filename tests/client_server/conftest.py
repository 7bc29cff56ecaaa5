"""A client server over ASGI with everything real but Flower and the coordinator, who are stood in for on real ports."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from client_server.app import create_app
from client_server.launch import Commands
from client_server.patience import Patience
from client_server.settings import Settings
from client_server.site import Site
from control_plane.identity import ProcessRecord
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from tests.client_server.stand_ins import AdminStandIn, Listener, appeared, make_certificate, superlink

SUPERNODE = (sys.executable, "-I", "-S", str(Path(__file__).with_name("supernode_stand_in.py")))
QUICK = Patience(
    ready_s=5,
    grace_s=2,
    first_backoff_s=0.02,
    longest_backoff_s=0.1,
    superlink_retry_s=0.05,
    silence_s=0.3,
    look_every_s=0.05,
    first_retry_s=0.02,
    longest_retry_s=0.1,
    heartbeat_s=0.1,
    activity_s=0.02,
)


async def eventually(holds: Callable[[], Any], within_s: float = 30) -> Any:
    """Wait until something is so, and give it; fails when it is not in time."""
    deadline = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {within_s} s"
        await asyncio.sleep(0.01)
    return found


@dataclass
class OpenSite:
    """A running client server, and how to ask and move it."""

    client: httpx.AsyncClient
    site: Site
    folder: Path
    app: FastAPI

    async def get(self, path: str) -> Any:
        response = await self.client.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    async def post(self, path: str, body: Any = None) -> httpx.Response:
        return await self.client.post(path, json=body)

    async def enrol(self, invitation: str) -> None:
        response = await self.post("/enrolment", {"invitation": invitation})
        assert response.status_code == 201, response.text

    async def start(self, **body: Any) -> None:
        response = await self.post("/supernode/start", body)
        assert response.status_code == 202, response.text
        await self.running()

    async def running(self, *, not_pid: int | None = None, within_s: float = 30) -> int:
        """Wait until it runs and the coordinator could know; gives its pid."""

        def described() -> Any:
            now = self.site.supernode.describe()
            return now["pid"] if now["state"] == "running" and now["pid"] != not_pid else None

        return int(await eventually(described, within_s))

    def tell_supernode(self, *words: str) -> None:
        part = self.folder / "supernode" / "do.part"
        part.write_text("".join(f"{word}\n" for word in words))
        part.rename(self.folder / "supernode" / "do")

    def record(self) -> ProcessRecord:
        record = ProcessRecord.read(self.folder / "supernode" / "proc.json")
        assert record is not None
        return record


class SiteMaker:
    """Opens client servers in one folder, each as if it were the next life of the last."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "sites" / "site-a"
        self.patience = QUICK
        self.deactivations = home / "deactivations"
        self.refused = home / "deactivations-are-refused"
        deactivate = f'printf "%s\\n" "$*" >> {self.deactivations}; test ! -e {self.refused}'
        self.commands = Commands(SUPERNODE, ("/bin/sh", "-c", deactivate, "deactivate"))

    def settings(self, **changes: Any) -> Settings:
        # Validated, not constructed: so the environment of the tests is not read.
        fixed = {"espalier_home": self.home, "participant_node_id": "site-a", "participant_node_name": "Site A"}
        return Settings.model_validate(fixed | changes)

    def deactivated(self) -> list[str]:
        return self.deactivations.read_text().splitlines() if self.deactivations.exists() else []

    @contextlib.asynccontextmanager
    async def open(self, **changes: Any) -> AsyncIterator[OpenSite]:
        app = create_app(self.settings(**changes), commands=self.commands, patience=self.patience)
        async with app.router.lifespan_context(app) as state:
            assert state is not None
            site: Site = state["site"]

            async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
                await app({**scope, "state": dict(state)}, receive, send)

            transport = httpx.ASGITransport(app=with_state)
            headers = {"Authorization": f"Bearer {site.token}"}
            async with httpx.AsyncClient(transport=transport, base_url="http://site", headers=headers) as client:
                yield OpenSite(client, site, self.folder, app)


@pytest.fixture
def sites(tmp_path: Path) -> SiteMaker:
    """Give a maker of client servers."""
    return SiteMaker(tmp_path)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make the SuperLink's certificate and key."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
async def superlink_there(certificate: tuple[Path, Path]) -> AsyncIterator[Listener]:
    """Have a SuperLink with TLS."""
    async with appeared(superlink(*certificate)) as listener:
        yield listener


@pytest.fixture
async def admin(superlink_there: Listener, certificate: tuple[Path, Path]) -> AsyncIterator[AdminStandIn]:
    """Have an admin server that lets sites in to the SuperLink."""
    stand_in = AdminStandIn()
    stand_in.superlink_address = f"127.0.0.1:{superlink_there.port}"
    stand_in.ca_certificate = certificate[0].read_text()
    async with appeared(stand_in.listener):
        yield stand_in


@pytest.fixture
async def site(sites: SiteMaker, admin: AdminStandIn) -> AsyncIterator[OpenSite]:
    """Have a client server that is enrolled."""
    async with sites.open() as opened:
        await opened.enrol(admin.invitation())
        yield opened
