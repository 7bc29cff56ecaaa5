"""What client servers say: each line once, malformed ones refused and acknowledged, the way back held open."""

import asyncio
import time
from typing import Any

from tests.admin_server.admin_app import Server, started_run


def log_line(seq: int, text: str) -> dict[str, Any]:
    lines = [{"at": "2026-11-22T08:00:00Z", "level": "info", "text": text}]
    data = {"flower_run_id": "77", "source": "clientapp", "message_id": "m1", "lines": lines}
    return {"seq": seq, "kind": "log", "at": "2026-11-22T08:00:00Z", "data": data}


async def test_report_lines_are_applied_once_and_in_order(server: Server) -> None:
    run = await started_run(server)
    node_id, site = await server.node()
    lines = [log_line(1, "one"), log_line(2, "two")]
    for batch, applied in ((lines, 2), (lines, 2), ([*lines, log_line(3, "three")], 3)):
        answer = await site.post(f"/nodes/{node_id}/reports", json={"spool_id": "s1", "lines": batch})
        assert answer.json() == {"applied_seq": applied}
    shown = (await server.admin.get(f"/runs/{run['id']}/logs")).json()["items"]
    assert [(line["text"], line["node_name"]) for line in shown] == [("one", "site-a"), ("two", "site-a"), ("three", "site-a")]
    flower_node_id = (await server.admin.get(f"/nodes/{node_id}")).json()["flower_node_id"]
    file = server.home / "runs" / "900" / "clients" / f"site-a-{flower_node_id[-6:]}" / "client.log"
    assert [line.rsplit(" ", 1)[1] for line in file.read_text().splitlines()] == ["one", "two", "three"]


async def test_a_gap_is_not_acknowledged(server: Server) -> None:
    node_id, site = await server.node()
    answer = await site.post(f"/nodes/{node_id}/reports", json={"spool_id": "s1", "lines": [log_line(2, "two")]})
    assert answer.json() == {"applied_seq": 0}


async def test_malformed_lines_are_refused_warned_of_and_acknowledged(server: Server) -> None:
    node_id, site = await server.node()
    lines = [
        {"seq": 1, "kind": "unheard", "at": "2026-11-22T08:00:00Z", "data": {}},
        {"seq": 2, "kind": "session", "at": "2026-11-22T08:00:00Z", "data": {"status": 7}},
        {"seq": 3, "kind": "inventory", "at": "2026-11-22T08:00:00Z", "data": {"hardware": {"cores": 2}, "datasets": []}},
    ]
    answer = await site.post(f"/nodes/{node_id}/reports", json={"spool_id": "s1", "lines": lines})
    assert answer.json() == {"applied_seq": 3}
    assert (await server.admin.get(f"/nodes/{node_id}")).json()["hardware"] == {"cores": 2}
    events = (await server.admin.get(f"/nodes/{node_id}/events")).json()["items"]
    assert [event["data"]["what"] for event in events if event["name"] == "fl.client.warned"] == ["report.refused"] * 2


async def test_a_session_that_ended_makes_the_node_lost_to_runs_and_a_new_one_gives_it_back(server: Server) -> None:
    node_id, site = await server.node()
    flower_node_id = (await server.admin.get(f"/nodes/{node_id}")).json()["flower_node_id"]
    session = "22222222-2222-4222-8222-222222222222"

    async def say(seq: int, status: str, reason: str | None = None) -> None:
        data = {"session_id": session, "status": status, "pid": 5, "reason": reason, "flower_node_id": flower_node_id}
        line = {"seq": seq, "kind": "session", "at": "2026-11-22T08:00:00Z", "data": {**data, "runtime_config": {}}}
        await site.post(f"/nodes/{node_id}/reports", json={"spool_id": "s1", "lines": [line]})

    await say(1, "starting")
    await say(2, "running")
    lost_nodes = server.state["server"].nodes._lost_nodes
    assert lost_nodes.reasons() == {}
    await say(3, "failed", "killed by signal 9 (SIGKILL)")
    assert lost_nodes.reasons() == {flower_node_id: "killed by signal 9 (SIGKILL)"}
    assert (await server.admin.get(f"/nodes/{node_id}")).json()["status"] == "offline"
    sessions = (await server.admin.get(f"/nodes/{node_id}/sessions")).json()["items"]
    assert [(one["id"], one["status"]) for one in sessions] == [(session, "failed")]


async def test_a_heartbeat_makes_a_node_online_and_its_state_offline(server: Server) -> None:
    node_id, site = await server.node()

    async def beat(state: str | None) -> str:
        body = {"reported_at": "2026-11-22T08:00:00Z", "supernode_state": state}
        assert (await site.post(f"/nodes/{node_id}/heartbeat", json=body)).status_code == 200
        return str((await server.admin.get(f"/nodes/{node_id}")).json()["status"])

    assert [await beat("running"), await beat("failed"), await beat("running"), await beat(None)] == [
        "online",
        "offline",
        "online",
        "offline",
    ]


async def test_wanted_answers_at_once_when_there_is_news_and_holds_when_there_is_none(server: Server) -> None:
    node_id, site = await server.node()
    first = (await site.get(f"/nodes/{node_id}/wanted")).json()
    assert (first["over_runs"], first["removed"]) == ([], False)
    waiting = asyncio.create_task(site.get(f"/nodes/{node_id}/wanted", params={"after": first["seq"]}))
    done, _ = await asyncio.wait({waiting}, timeout=0.3)
    assert not done, "there was nothing to answer yet"
    began = time.monotonic()
    server.state["server"].wanted.run_over("77")
    second = (await waiting).json()
    assert time.monotonic() - began < 0.5
    assert second["over_runs"] == ["77"]
    assert second["seq"] > first["seq"]
    body = {"reported_at": "2026-11-22T08:00:00Z", "supernode_state": "running"}
    assert (await site.post(f"/nodes/{node_id}/heartbeat", json=body)).json() == {"wanted_seq": second["seq"]}


async def test_a_held_request_ends_when_the_node_is_removed(server: Server) -> None:
    node_id, site = await server.node()
    seq = (await site.get(f"/nodes/{node_id}/wanted")).json()["seq"]
    waiting = asyncio.create_task(site.get(f"/nodes/{node_id}/wanted", params={"after": seq}))
    await asyncio.wait({waiting}, timeout=0.2)
    await server.admin.delete(f"/nodes/{node_id}")
    assert (await waiting).json()["removed"] is True
