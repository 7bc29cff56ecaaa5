import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from control_plane.sse import Broadcast, Event, event_stream, frame


async def collect(events: AsyncIterator[Event]) -> list[object]:
    return [event.data async for event in events]


async def test_each_subscriber_of_a_topic_gets_every_event_in_order() -> None:
    broadcast = Broadcast()
    one, other, elsewhere = broadcast.subscribe("run 1"), broadcast.subscribe("run 1"), broadcast.subscribe("run 2")
    for n in range(3):
        broadcast.publish("run 1", Event("line", n))
    broadcast.publish("nobody's", Event("line", 9))
    broadcast.close()
    assert await collect(one) == await collect(other) == [0, 1, 2]
    assert await collect(elsewhere) == []


async def test_a_slow_subscriber_is_closed_and_holds_nobody_up() -> None:
    broadcast = Broadcast(capacity=3)
    slow, quick = broadcast.subscribe("t"), broadcast.subscribe("t")
    seen = []
    for n in range(10):
        broadcast.publish("t", Event("line", n))
        seen.append((await anext(quick)).data)
    assert seen == list(range(10))
    assert slow.fell_behind
    assert await collect(slow) == [0, 1, 2]
    assert not quick.fell_behind
    assert broadcast.count("t") == 1


async def test_who_leaves_is_forgotten() -> None:
    broadcast = Broadcast()
    async with broadcast.subscribe("t"):
        assert broadcast.count("t") == 1
    assert broadcast.count("t") == 0
    broadcast.publish("t", Event("line", 1))


async def test_after_the_end_a_new_subscription_ends_at_once() -> None:
    broadcast = Broadcast()
    broadcast.close()
    assert await collect(broadcast.subscribe("t")) == []


async def test_a_topic_can_end_alone() -> None:
    broadcast = Broadcast()
    one, other = broadcast.subscribe("run 1"), broadcast.subscribe("run 2")
    broadcast.end("run 1")
    assert await collect(one) == []
    broadcast.publish("run 2", Event("line", 1))
    assert (await anext(other)).data == 1


def test_a_frame_has_id_event_and_data_and_nothing_can_break_out_of_it() -> None:
    assert frame(Event("line", {"text": "a\nb"}, id="7"), json.dumps) == 'id: 7\nevent: line\ndata: {"text": "a\\nb"}\n\n'
    assert frame(Event("line\ndata: x", None, "1\n\n2"), lambda _: "a\nb\u2028c") == (
        "id: 1  2\nevent: line data: x\ndata: a\ndata: b\u2028c\n\n"
    )


async def test_the_stream_sends_its_events_and_ends_with_them() -> None:
    broadcast = Broadcast()
    response = event_stream(broadcast.subscribe("t"))
    broadcast.publish("t", Event("line", {"n": 1}, "1"))
    broadcast.close()
    assert response.media_type == "text/event-stream"
    assert response.headers["cache-control"] == "no-store"
    assert [part async for part in response.body_iterator] == [": open\n\n", 'id: 1\nevent: line\ndata: {"n":1}\n\n']


async def test_silence_is_broken_by_a_ping_and_no_event_is_lost_by_it() -> None:
    broadcast = Broadcast()
    parts = aiter(event_stream(broadcast.subscribe("t"), ping_s=0.02).body_iterator)
    assert [await anext(parts) for _ in range(3)] == [": open\n\n", ": ping\n\n", ": ping\n\n"]
    broadcast.publish("t", Event("line", 1))
    assert await anext(parts) == "event: line\ndata: 1\n\n"
    assert isinstance(parts, AsyncGenerator)
    await parts.aclose()


async def test_a_client_that_goes_closes_the_source() -> None:
    closed = asyncio.Event()

    async def source() -> AsyncIterator[Event]:
        try:
            yield Event("line", 1)
            await asyncio.Event().wait()
        finally:
            closed.set()

    parts = aiter(event_stream(source()).body_iterator)
    assert [await anext(parts) for _ in range(2)][1] == "event: line\ndata: 1\n\n"
    assert isinstance(parts, AsyncGenerator)
    await parts.aclose()
    assert closed.is_set()


async def test_an_error_in_the_source_is_not_swallowed() -> None:
    async def source() -> AsyncIterator[Event]:
        yield Event("line", 1)
        raise ConnectionError("away")

    with pytest.raises(ConnectionError):
        [part async for part in event_stream(source()).body_iterator]
