"""No request, be it allowed by the OpenAPI document or forbidden, makes a 5xx or an answer that the document does not have."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from client_server.app import create_app
from client_server.settings import Settings

from tests.client_server.conftest import SiteMaker
from tests.client_server.stand_ins import AdminStandIn, appeared, superlink
from tests.contract.fuzzing import Route, Target, routes_of


def document() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        return create_app(Settings.model_validate({"espalier_home": Path(home)})).openapi()


DOCUMENT = document()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[Target]:
    """Have a site that is enrolled, with a SuperLink to dial."""
    with asyncio.Runner() as runner:
        ends = AsyncExitStack()
        try:
            listener = runner.run(ends.enter_async_context(appeared(superlink(*certificate))))
            admin = AdminStandIn()
            admin.superlink_address = f"127.0.0.1:{listener.port}"
            admin.ca_certificate = certificate[0].read_text()
            runner.run(ends.enter_async_context(appeared(admin.listener)))
            site = runner.run(ends.enter_async_context(SiteMaker(tmp_path_factory.mktemp("fuzzed")).open()))
            runner.run(site.enrol(admin.invitation()))
            token = site.site.token
            yield Target.of(runner, site.app, DOCUMENT, {"site": site.site}, token_of=lambda _: token)
        finally:
            runner.run(ends.aclose())


@pytest.mark.parametrize("route", routes_of(DOCUMENT), ids=" ".join)
def test_no_request_breaks_a_route(target: Target, route: Route) -> None:
    assert target.hold(route) > 0
