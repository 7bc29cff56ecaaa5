"""Who may do what: every route but /health needs a token, and the right role."""

import re
from collections.abc import Iterator

import pytest
from fastapi.routing import iter_route_contexts

from tests.admin_server.admin_app import Server

SITES = {"/nodes/{node_id}/heartbeat", "/nodes/{node_id}/reports", "/nodes/{node_id}/wanted"}
ENROL = "/nodes/enrol"


def routes(server: Server) -> Iterator[tuple[str, str, str]]:
    """Give method, template and a real path of every route."""
    for route in iter_route_contexts(server.app.routes):
        if route.path not in (None, "/health"):
            for method in sorted(route.methods or ()):
                yield method, route.path, re.sub(r"\{\w+\}", "11111111-1111-4111-8111-111111111111", route.path)


async def test_every_route_but_health_refuses_a_missing_and_a_wrong_token(server: Server) -> None:
    nobody, stranger = server.client(None), server.client("wrong")
    walked = list(routes(server))
    assert len(walked) > 30
    for method, template, path in walked:
        assert (await nobody.request(method, path)).status_code == 401, f"{method} {template} without a token"
        if template != ENROL:  # there the token is an invitation's secret, which is looked at with the body
            answer = await stranger.request(method, path)
            assert answer.status_code == 401, f"{method} {template} with a wrong token"
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_node_token_opens_the_site_routes_alone(server: Server) -> None:
    _, node = await server.node()
    for method, template, path in routes(server):
        answer = await node.request(method, path)
        assert answer.status_code == 403, f"{method} {template}"
        expected = "other-node" if template in SITES else "forbidden"
        assert answer.json()["type"].endswith(f"#{expected}"), f"{method} {template}"


async def test_the_admin_token_does_not_speak_for_a_site(server: Server) -> None:
    for method, template, path in routes(server):
        if template in SITES or template == ENROL:
            assert (await server.admin.request(method, path)).status_code == 403, f"{method} {template}"


async def test_a_node_reports_only_for_itself(server: Server) -> None:
    mine, node = await server.node("site-a")
    other, _ = await server.node("site-b")
    beat = {"reported_at": "2026-11-22T08:00:00Z", "supernode_state": "running"}
    assert (await node.post(f"/nodes/{mine}/heartbeat", json=beat)).status_code == 200
    answer = await node.post(f"/nodes/{other}/heartbeat", json=beat)
    assert (answer.status_code, answer.json()["node_id"]) == (403, other)


async def test_the_token_of_a_removed_node_is_refused(server: Server) -> None:
    node_id, node = await server.node()
    assert (await server.admin.delete(f"/nodes/{node_id}")).status_code == 204
    assert (await node.get(f"/nodes/{node_id}/wanted")).status_code == 401


async def test_health_says_little_without_a_token_and_all_with_one(server: Server) -> None:
    plain = await server.client(None).get("/health")
    assert set(plain.json()) == {"status", "version"}
    told = (await server.admin.get("/health")).json()
    assert (told["status"], told["database"], told["superlink"]["state"]) == ("ok", "up", "stopped")
    assert told["project_id"] == server.project_id
    assert told["lease"]["held"] is True
    assert (await server.client("wrong").get("/health")).status_code == 401
    _, node = await server.node()
    assert (await node.get("/health")).status_code == 403


@pytest.mark.parametrize("body", [{"unknown": 1}, {"insecure": "perhaps"}])
async def test_what_a_body_may_not_say_is_422(server: Server, body: dict[str, object]) -> None:
    answer = await server.admin.post("/superlink/start", json=body)
    assert answer.status_code == 422
    assert next(iter(body)) in answer.json()["detail"]


async def test_a_body_that_is_too_large_is_refused_unread(server: Server) -> None:
    answer = await server.admin.post("/runs/start", content=b"x" * 2_000_000)
    assert answer.status_code == 413
    assert answer.json()["type"].endswith("#body-too-large")


async def test_secrets_are_files_for_their_owner_alone(server: Server) -> None:
    assert (server.home / "admin.token").stat().st_mode & 0o077 == 0
    assert server.home.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "path", ["/runs?status=bogus", "/runs?origin=bogus", "/nodes?status=bogus", "/runs/1/updates?status=bogus"]
)
async def test_a_filter_that_nothing_could_pass_is_422(server: Server, path: str) -> None:
    assert (await server.admin.get(path)).status_code == 422


@pytest.mark.parametrize("number", ["9" * 30, "18446744073709551616", "\u00b2", "7"])
async def test_an_id_that_no_run_could_have_is_not_found(server: Server, number: str) -> None:
    assert (await server.admin.get(f"/runs/{number}")).status_code == 404
