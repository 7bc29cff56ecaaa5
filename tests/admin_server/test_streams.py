"""Lists by pages, and the same rows as server-sent events from where a client was."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest
from admin_server.api.paging import follow
from admin_server.feed import Feed
from control_plane.sse import Event
from httpx import AsyncClient, Response

from db.store import Store
from tests.admin_server.admin_app import RECORDS, Server, started_run
from tests.admin_server.test_outage import listening


async def ended_run(server: Server) -> str:
    run = await started_run(server)
    rows = [{"at": "2026-11-22T08:00:00Z", "level": "info", "text": f"line {n}", "source": "serverapp"} for n in range(5)]
    await server.store.append_log_lines(run["id"], "attempts/77/server.log", 0, 50, rows)
    await server.store.apply_journal(run["id"], RECORDS, 900)
    return str(run["id"])


def parsed(text: str) -> list[dict[str, Any]]:
    """Read a stream's events, comments aside."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append({**fields, "data": json.loads(fields["data"])})
    return found


async def test_a_list_is_walked_by_its_next(server: Server) -> None:
    run_id = await ended_run(server)
    texts: list[str] = []
    after: int | None = None
    while True:
        params = {"limit": 2} | ({} if after is None else {"after": after})
        page = (await server.admin.get(f"/runs/{run_id}/logs", params=params)).json()
        texts += [line["text"] for line in page["items"]]
        if (after := page["next"]) is None:
            break
    assert texts == [f"line {n}" for n in range(5)]


async def test_a_limit_out_of_range_is_422(server: Server) -> None:
    for limit in (0, 1001):
        assert (await server.admin.get("/runs", params={"limit": limit})).status_code == 422


async def test_a_query_parameter_that_is_misspelt_is_422(server: Server) -> None:
    answer = await server.admin.get("/runs", params={"statuz": "failed"})
    assert (answer.status_code, answer.json()["parameter"]) == (422, "statuz")
    assert "status" in answer.json()["known"]


async def test_the_log_of_an_ended_run_streams_whole_and_ends(server: Server) -> None:
    run_id = await ended_run(server)
    answer = await server.admin.get(f"/runs/{run_id}/logs", params={"follow": "true"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = parsed(answer.text)
    assert [event["event"] for event in events] == ["line"] * 5 + ["end"]
    assert [event["data"]["text"] for event in events[:-1]] == [f"line {n}" for n in range(5)]
    assert [event["id"] for event in events[:-1]] == [str(event["data"]["key"]) for event in events[:-1]]


async def test_a_stream_goes_on_after_last_event_id(server: Server) -> None:
    run_id = await ended_run(server)
    path = f"/runs/{run_id}/logs?follow=true"
    events = parsed((await server.admin.get(path)).text)
    rest = parsed((await server.admin.get(path, headers={"Last-Event-ID": events[2]["id"]})).text)
    assert [event["data"]["text"] for event in rest[:-1]] == ["line 3", "line 4"]


async def test_the_events_of_a_run_stream_in_order(server: Server) -> None:
    run_id = await ended_run(server)
    events = parsed((await server.admin.get(f"/runs/{run_id}/events", params={"follow": "true"})).text)
    names = [event["data"]["name"] for event in events[:-1]]
    assert names[0] == "fl.federation.created"
    assert names[-1] == "fl.federation.completed"
    listed = (await server.admin.get(f"/runs/{run_id}/events", params={"limit": 1000})).json()["items"]
    assert names == [event["name"] for event in listed]


@pytest.mark.parametrize("path", ["/runs/{run}/events", "/events"])
async def test_events_go_on_after_whichever_was_the_last(server: Server, path: str) -> None:
    path = path.format(run=await ended_run(server))
    keys = [event["key"] for event in (await server.admin.get(path, params={"limit": 1000})).json()["items"]]
    async with listening(server, []) as address, AsyncClient(base_url=address, headers=server.admin.headers) as client:
        for number, last in enumerate([0, *keys[:-1]]):
            follow = client.stream("GET", path, params={"follow": "true"}, headers={"Last-Event-ID": str(last)})
            assert await ids_of(follow, len(keys) - number) == keys[number:]


async def ids_of(follow: AbstractAsyncContextManager[Response], count: int) -> list[int]:
    """Read so many ids of a stream that may go on for ever, and leave it."""
    ids: list[int] = []
    async with follow as answer, asyncio.timeout(20):
        async for line in answer.aiter_lines():
            ids += [int(line[4:])] if line.startswith("id: ") else []
            if len(ids) == count:
                break
    return ids


async def test_filters_of_a_list_are_those_of_its_stream(server: Server) -> None:
    run_id = await ended_run(server)
    params = {"follow": "true", "source": "clientapp"}
    assert [event["event"] for event in parsed((await server.admin.get(f"/runs/{run_id}/logs", params=params)).text)] == ["end"]
    assert (await server.admin.get(f"/runs/{run_id}/logs", params={"level": "loud"})).status_code == 422


async def test_a_stream_with_a_filter_that_cannot_be_is_refused_before_it_begins(server: Server) -> None:
    run_id = await ended_run(server)
    answer = await server.admin.get(f"/runs/{run_id}/logs", params={"follow": "true", "node_id": "abc"})
    assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (422, "invalid")


async def test_a_follower_ends_with_the_last_rows_however_late_they_came() -> None:
    """At a server that only reads: rows were read and are shared, then the last row and the end came without news."""
    feed, rows, over = Feed(), [{"key": 1}], [False]

    class Reading:
        def __init__(self) -> None:
            self.has_read = asyncio.Event()

        async def rows(self, view: str, where: Any, after: int, limit: int) -> list[dict[str, Any]]:
            self.has_read.set()
            return [row for row in rows if row["key"] > after]

    store = Reading()

    async def ended() -> bool:
        return over[0]

    def following(after: int) -> AsyncIterator[Event]:
        return follow(cast(Store, store), feed, "log_list", {"run_id": "r"}, after, "line", ended)

    early = asyncio.ensure_future(anext(following(1)))
    await store.has_read.wait()  # what is after 1, nothing, and that is shared for half a second
    rows.append({"key": 2})
    over[0] = True
    feed._reads._answers = {key: answer for key, answer in feed._reads._answers.items() if key[2] != "ended"}  # type: ignore[index]
    late = [event.id or event.event async for event in following(1)]
    assert late == ["2", "end"]
    early.cancel()
