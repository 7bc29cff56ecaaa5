"""Starting the SuperLink: what goes wrong is told, and can be tried again."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from admin_server.settings import Settings

from tests.admin_server.admin_app import Server


@pytest.fixture
def taken_port(settings: Settings) -> Iterator[int]:
    """Take the SuperLink's port before it comes."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        settings.superlink_port = holder.getsockname()[1]
        yield settings.superlink_port


async def at_rest(server: Server) -> dict[str, Any]:
    for _ in range(2000):
        view: dict[str, Any] = (await server.admin.get("/superlink")).json()
        if view["state"] not in ("starting", "stopping"):
            return view
        await asyncio.sleep(0.05)
    raise AssertionError("the SuperLink stays on its way")


async def test_a_port_in_use_fails_the_start_with_the_reason_and_the_last_lines(taken_port: int, server: Server) -> None:
    answer = await server.admin.post("/superlink/start", json={"insecure": True})
    assert (answer.status_code, answer.json()) == (202, {"state": "starting", "location": "/superlink"})
    second = await server.admin.post("/superlink/start")
    assert (second.status_code, second.json()["type"].rpartition("#")[2]) == (409, "superlink-active")
    view = await at_rest(server)
    assert (view["state"], view["pid"]) == ("failed", None)
    assert "exit code 2" in view["reason"]
    assert any(f"cannot listen on 127.0.0.1:{taken_port}" in line for line in view["last_lines"])
    coordinator = (await server.admin.get("/nodes/coordinator/sessions")).json()["items"]
    assert [(session["kind"], session["status"]) for session in coordinator] == [("superlink", "failed")]
    assert (await server.admin.post("/superlink/start")).status_code == 202, "a start that failed may be tried again"
    await at_rest(server)


async def test_a_stop_of_what_does_not_run_is_a_conflict(server: Server) -> None:
    answer = await server.admin.post("/superlink/stop")
    assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (409, "superlink-not-running")


async def test_a_refused_start_leaves_nothing(server: Server) -> None:
    for body in ({"listen_address": "a b"}, {"certificates_path": "/nowhere"}, {"extra_args": ["--insecure"]}):
        assert (await server.admin.post("/superlink/start", json=body)).status_code == 422
    assert (await server.admin.get("/superlink")).json()["state"] == "stopped"
    assert (await server.admin.get("/nodes/coordinator/sessions")).json()["items"] == []
    assert not (server.home / "superlink" / "start.json").exists()


async def test_an_enrolment_without_a_superlink_uses_no_invitation_up(server: Server) -> None:
    made = (await server.admin.post("/nodes/invitations", json={"label": "a"})).json()
    body = {"external_id": "a", "display_name": "A", "public_key": "ecdsa-sha2-nistp384 AAAA"}
    answer = await server.client("some-secret").post("/nodes/enrol", json=body)
    assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (409, "superlink-not-running")
    (invitation,) = (await server.admin.get("/nodes/invitations")).json()["items"]
    assert (invitation["id"], invitation["status"]) == (made["id"], "open")
    assert "secret" not in invitation
