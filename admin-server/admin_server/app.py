"""The admin server's app: everything is built and wired here, and does its work elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TypedDict
from uuid import uuid4

from control_plane import problems
from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware

from admin_server.api import apps, events, health, models, nodes, projects, reports, run_records, runs, superlink
from admin_server.apps import Apps
from admin_server.artifacts.stores import Stores
from admin_server.artifacts.uploads import Uploads
from admin_server.attempts import Attempts
from admin_server.audit import TELL_S, Audit
from admin_server.authentication import Authentication
from admin_server.background import Background
from admin_server.database import LOOK_S, Database
from admin_server.deps import only_known_query
from admin_server.duties import Duties
from admin_server.feed import Feed
from admin_server.initial_models import InitialModels
from admin_server.invitations import Invitations
from admin_server.lease import RENEW_S, Lease, server_id
from admin_server.lost_nodes import LostNodes
from admin_server.models import Models
from admin_server.nodes import Nodes
from admin_server.refusals import install
from admin_server.reports import Intake
from admin_server.runs import Runs
from admin_server.settings import Settings
from admin_server.state import State
from admin_server.superlink import Superlink
from admin_server.version import VERSION
from admin_server.wanted import Wanted
from admin_server.watch.run_watch import Surroundings
from admin_server.watch.watches import Watches

ROUTERS = (health, superlink, runs, run_records, nodes, reports, projects, models, events, apps)


class Lifespan(TypedDict):
    """What request.state has."""

    server: State


def create_app(settings: Settings, *, feed: Feed | None = None) -> FastAPI:
    """Build the app. feed: to be closed when the server is told to stop, so that streams end."""
    heard = feed or Feed()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Lifespan]:
        async with running(settings, heard) as state:
            app.state.authenticate = Authentication(settings.espalier_home, state.database)
            yield {"server": state}

    app = FastAPI(title="Espalier admin server", version=VERSION, lifespan=lifespan, openapi_url=None)
    problems.install(app, body_limit_bytes=settings.body_limit_bytes, body_limits={"/apps": apps.FAB_LIMIT_BYTES})
    install(app)
    if settings.cors:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors, allow_methods=["*"], allow_headers=["*"])
    for module in ROUTERS:
        app.include_router(module.router, dependencies=[Depends(only_known_query)])
    return app


@asynccontextmanager
async def running(settings: Settings, feed: Feed) -> AsyncIterator[State]:
    """Open the database, take the lease or wait for it, and at the end leave nothing behind."""
    home = settings.espalier_home
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(settings, feed)
    async with AsyncExitStack() as ends:
        ends.push_async_callback(database.close)
        await database.open()
        store = database.store
        project = await store.open_project(
            settings.project_slug, settings.project_name, settings.coordinator_node_id, settings.coordinator_node_name
        )
        always, held = Background(), Background()
        lost_nodes, wanted = LostNodes(), Wanted(feed)
        link = Superlink(settings, store, project["coordinator_node_id"], held)
        fabs, runs_dir, name = Apps(settings.apps_dir, home / "apps"), home / "runs", settings.coordinator_node_name
        around = Surroundings(store, runs_dir, lambda: link.flower, lost_nodes, wanted, name, fabs.writes_journal)
        watches = Watches(around, project["id"], held)
        again = Attempts(store, fabs, lambda: link.flower, watches, lost_nodes, runs_dir, name, settings.max_attempts, held)
        stores = Stores(home, settings.artifacts_url, settings.s3_endpoint_url)
        models = Models(store, project, stores, home)
        started = Runs(store, project["id"], fabs, link, watches, again, InitialModels(models, home), runs_dir)
        members = Nodes(database, project, link, lost_nodes, wanted)
        uploads = Uploads(store, project["id"], stores, home / "runs")
        prune = partial(store.prune, project["id"], settings.log_retention_days)
        duties = Duties(link, started, again, members, prune, uploads, held)
        lease = Lease(store, project["id"], server_id(home), duties.begin, duties.end)
        for end in (lease.release, always.end, held.end, duties.give_up):  # the last one is done first
            ends.push_async_callback(end)
        await lease.look()
        always.repeat("look at the database", database.look, LOOK_S)
        always.repeat("lease", lease.look, RENEW_S)
        audit = Audit(store, project["id"])
        always.repeat("audit log", audit.tell, TELL_S)
        ends.push_async_callback(audit.close)
        yield State(
            settings=settings,
            feed=feed,
            database=database,
            project=project,
            lease=lease,
            superlink=link,
            apps=fabs,
            audit=audit,
            runs=started,
            nodes=members,
            models=models,
            invitations=Invitations(store, project["id"], settings),
            intake=Intake(store, home / "runs", lost_nodes),
            wanted=wanted,
            instance_id=uuid4().hex,
            started_at=datetime.now(UTC),
        )
