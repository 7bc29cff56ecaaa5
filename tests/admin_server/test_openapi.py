"""No request, be it allowed by the OpenAPI document or forbidden, makes a 5xx or an answer that the document does not have."""

import asyncio
import socket
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from admin_server.app import create_app
from admin_server.settings import Settings

from tests.admin_server.admin_app import RECORDS, Server, client_of, started_run, write_app
from tests.contract.fuzzing import EXAMPLES, Route, Target, routes_of

OF_SITES = ("heartbeat", "reports", "wanted")
SLOW = {("POST", "/apps"): 1, ("GET", "/apps/{app}/config"): 2}  # Flower checks each app in a process, for a second


def document() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        return create_app(Settings(espalier_home=Path(home), apps_dir=Path(home))).openapi()


DOCUMENT = document()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, module_database_url: str) -> Iterator[Target]:
    """Have a server with an app, a node and a run that has ended; its SuperLink finds its port taken, and so never starts."""
    home = tmp_path_factory.mktemp("fuzzed")
    write_app(home / "apps" / "small")
    with socket.socket() as holder, asyncio.Runner() as runner:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        settings = Settings(
            espalier_home=home / "home",
            database_url=module_database_url,
            apps_dir=home / "apps",
            superlink_port=holder.getsockname()[1],
        )
        app, ends = create_app(settings), AsyncExitStack()
        lifespan: Any = app.router.lifespan_context(app)
        state = dict(runner.run(ends.enter_async_context(lifespan)))
        try:
            token = (settings.espalier_home / "admin.token").read_text().strip()
            server = Server(app, state, client_of(app, state, token), settings.espalier_home)
            run = runner.run(started_run(server))
            runner.run(server.store.apply_journal(run["id"], RECORDS, 900))
            node_id, site = runner.run(server.node())
            node_token = site.headers["authorization"].removeprefix("Bearer ")

            def token_of(route: Route) -> str:
                path = route[1]
                return "a-secret" if path == "/nodes/enrol" else node_token if path.endswith(OF_SITES) else token

            known = {"node_id": [node_id], "run_id": [run["id"], "77", "900"], "slug": ["fed-project"], "app": ["small"]}
            yield Target.of(runner, app, DOCUMENT, state, token_of=token_of, known=known)
        finally:
            runner.run(ends.aclose())


@pytest.mark.parametrize("route", routes_of(DOCUMENT), ids=" ".join)
def test_no_request_breaks_a_route(target: Target, route: Route) -> None:
    assert target.hold(route, max(1, EXAMPLES // 6) * SLOW[route] if route in SLOW else EXAMPLES) > 0
