"""Requests that Schemathesis makes up from an OpenAPI document, sent to the real app over ASGI."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.types import ASGIApp, Receive, Scope, Send

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "6"))
"""Made-up requests a route, as many again that the document forbids. By hand: FUZZ_EXAMPLES=500, which takes some 20 minutes."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
BASE_URL = "http://espalier.test:8000"
ANSWER_S = 60.0
SHRINKS = [Phase.shrink] if EXAMPLES > 100 else []  # to shrink a failure takes long, and CI is to say that there is one
Route = tuple[str, str]
AnyCase = Case[Any]


def routes_of(document: dict[str, Any]) -> list[Route]:
    """Name every route of a document; those that delete come last, as the others need what is there."""
    routes = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    return sorted(routes, key=lambda route: route[0] == "DELETE")


@dataclass
class Target:
    """A running app, in an event loop of its own since Hypothesis is not async, and what requests need to get past its door."""

    document: dict[str, Any]
    runner: asyncio.Runner
    client: httpx.AsyncClient
    token_of: Callable[[Route], str]
    known: dict[str, list[str]] = field(default_factory=dict)
    """Values of path parameters that name something; about half of the requests use them."""

    @classmethod
    def of(cls, runner: asyncio.Runner, app: ASGIApp, document: dict[str, Any], state: dict[str, Any], **more: Any) -> Target:
        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": dict(state)}, receive, send)

        transport = httpx.ASGITransport(with_state, raise_app_exceptions=False)
        return cls(document, runner, httpx.AsyncClient(transport=transport, base_url=BASE_URL), **more)

    def ask(self, case: AnyCase) -> httpx.Response:
        """Send a made-up request."""
        prepared = requests.Request(**case.as_transport_kwargs(base_url=BASE_URL)).prepare()
        headers = {name: str(value) for name, value in prepared.headers.items()}
        headers["Authorization"] = f"Bearer {self.token_of((case.method, case.path))}"
        body: Any = prepared.body
        sent = self.client.build_request(case.method, prepared.url or "", headers=headers, content=body)
        return self.runner.run(asyncio.wait_for(self.client.send(sent), ANSWER_S))

    def hold(self, route: Route, examples: int = EXAMPLES) -> int:
        """Ask a route what its document allows and what it forbids; give the number of requests.

        Fails for a 5xx, and for a status, a content type, a header or a body that the document does not have.
        """
        method, path = route
        operation = schemathesis.openapi.from_dict(self.document)[path][method]
        asked = 0

        def ask(case: AnyCase, data: st.DataObject) -> None:
            nonlocal asked
            for name in case.path_parameters or {}:
                if name in self.known and data.draw(st.booleans()):
                    case.path_parameters[name] = data.draw(st.sampled_from(self.known[name]))
            without_waiting(case)
            asked += 1
            case.validate_response(self.ask(case), checks=CHECKS)

        for mode in GenerationMode:
            made_up = given(case=operation.as_strategy(generation_mode=mode), data=st.data())(ask)
            try:
                settings(
                    max_examples=examples,
                    derandomize=True,
                    database=None,
                    deadline=None,
                    phases=[Phase.generate, *SHRINKS],
                    suppress_health_check=list(HealthCheck),
                )(made_up)()
            except Unsatisfiable:  # nothing of a route without parameters can be forbidden
                assert mode is GenerationMode.NEGATIVE
        return asked


def without_waiting(case: AnyCase) -> None:
    """Leave out what holds an answer open: streams, and a wish for newer news than there are."""
    if case.query:
        case.query.pop("follow", None)
        if case.path.endswith("/wanted") and isinstance(case.query.get("after"), int):
            case.query["after"] = min(case.query["after"], 0)
