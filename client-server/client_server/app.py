"""The client server's app: it wires, and does nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from control_plane import problems
from control_plane.auth import Principal, require
from control_plane.tokens import same
from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request

from client_server.api import enrolment, health, inventory, supernode
from client_server.deps import ROLE, site_of
from client_server.launch import Commands
from client_server.patience import Patience
from client_server.settings import Settings
from client_server.site import VERSION, Site


class State(TypedDict):
    """What the lifespan gives to each request."""

    site: Site


def create_app(settings: Settings, *, commands: Commands | None = None, patience: Patience | None = None) -> FastAPI:
    """Build the app. commands: other programs than flower-runtime's; patience: other waits than the usual ones."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[State]:
        async with Site(settings, commands or Commands(), patience or Patience()).open() as site:
            app.state.leave = site.leaving.set
            yield {"site": site}

    app = FastAPI(title="Espalier client server", version=VERSION, lifespan=lifespan, openapi_url=None)
    app.state.authenticate = _authenticate
    problems.install(app, body_limit_bytes=settings.body_limit_bytes)
    if settings.cors:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors, allow_methods=["*"], allow_headers=["*"])
    app.include_router(health.router)
    for module in (enrolment, supernode, inventory):
        app.include_router(module.router, dependencies=[Depends(require(ROLE))])
    return app


async def _authenticate(request: Request, token: str) -> Principal | None:
    return Principal(ROLE) if same(token, site_of(request).token) else None
