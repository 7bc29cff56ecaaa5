"""Requests that once made a 500, or made others answer one: each is refused, and says why."""

from typing import Any

import pytest

from tests.admin_server.admin_app import Server


@pytest.mark.parametrize(
    ("body", "slug"),
    [
        ({"listen_address": "é"}, "address-invalid"),
        ({"listen_address": "\0:1"}, "address-invalid"),
        ({"listen_address": "1.2.3.4:٣"}, "address-invalid"),
        ({"certificates_path": "/" + "x" * 400}, "certificates-invalid"),
        ({"certificates_path": "/\0"}, "certificates-invalid"),
    ],
)
async def test_a_start_with_a_name_that_nothing_can_have_is_refused(server: Server, body: dict[str, Any], slug: str) -> None:
    answer = await server.admin.post("/superlink/start", json=body)
    assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (422, slug), answer.text
    assert (await server.admin.get("/superlink")).json()["state"] == "stopped"


async def test_what_a_site_nests_too_deep_to_be_shown_is_refused_and_its_node_is_still_shown(server: Server) -> None:
    node_id, site = await server.node()
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    line = {"seq": 1, "kind": "inventory", "at": "2026-11-22T08:00:00Z", "data": {"hardware": {"gpus": deep}, "datasets": []}}
    answer = await site.post(f"/nodes/{node_id}/reports", json={"spool_id": "s", "lines": [line]})
    assert answer.json() == {"applied_seq": 1}
    shown = await server.admin.get(f"/nodes/{node_id}")
    assert (shown.status_code, shown.json()["hardware"]) == (200, {})
    assert (await server.admin.get("/nodes")).status_code == 200
    warned = (await server.admin.get(f"/nodes/{node_id}/events")).json()["items"]
    assert [event["data"]["what"] for event in warned if event["name"] == "fl.client.warned"] == ["report.refused"]
