import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from db.door import Door, Row
from db.errors import BadValue, NoSuchRow
from db.store import Store


def lines(*texts: str, **fields: Any) -> list[Row]:
    return [{"text": text, "source": "serverapp"} | fields for text in texts]


async def test_lines_are_appended_only_where_the_tail_stands(store: Store, run: Row) -> None:
    assert await store.tail_offset(run["id"], "server.log") == 0
    first = await store.append_log_lines(run["id"], "server.log", 0, 10, lines("a", "b"))
    again = await store.append_log_lines(run["id"], "server.log", 0, 10, lines("a", "b"))
    ahead = await store.append_log_lines(run["id"], "server.log", 12, 20, lines("x"))
    assert first == {"applied": True, "offset": 10}
    assert again == ahead == {"applied": False, "offset": 10}
    await store.append_log_lines(run["id"], "server.log", 10, 20, lines("c"))
    assert await store.tail_offset(run["id"], "server.log") == 20
    assert [row["text"] for row in await store.rows("log_list", {"run_id": run["id"]})] == ["a", "b", "c"]


async def test_each_stream_has_its_own_offset_and_so_have_lines_of_no_run(store: Store, run: Row) -> None:
    await store.append_log_lines(run["id"], "attempts/77/server.log", 0, 5, lines("a"))
    await store.append_log_lines(run["id"], "attempts/78/server.log", 0, 7, lines("b"))
    await store.append_log_lines(None, "superlink.log", 0, 9, lines("c", source="superlink"))
    offsets = [
        await store.tail_offset(run["id"], "attempts/77/server.log"),
        await store.tail_offset(run["id"], "attempts/78/server.log"),
        await store.tail_offset(None, "superlink.log"),
        await store.tail_offset(None, "attempts/77/server.log"),
    ]
    assert offsets == [5, 7, 9, 0]
    assert [row["text"] for row in await store.rows("log_list", {"run_id": None})] == ["c"]


async def test_of_eight_that_append_the_same_piece_at_once_one_does(store: Store, run: Row) -> None:
    answers = await asyncio.gather(
        *(store.append_log_lines(run["id"], "server.log", 0, 9, lines("a", "b", "c")) for _ in range(8))
    )
    assert sum(answer["applied"] for answer in answers) == 1
    assert len(await store.rows("log_list", {"run_id": run["id"]})) == 3


async def test_a_reader_by_key_misses_no_line_of_eight_writers(store: Store, run: Row, database_url: str) -> None:
    async def write(writer: int) -> None:
        for piece in range(10):
            await store.append_log_lines(run["id"], f"stream-{writer}", piece, piece + 1, lines(f"{writer}/{piece}", "and more"))

    async def follow() -> list[str]:
        seen: list[Row] = []
        while len(seen) < 160:
            seen += await store.rows("log_list", {"run_id": run["id"]}, seen[-1]["key"] if seen else 0, 1000)
        return [row["text"] for row in seen if row["text"] != "and more"]

    async with asyncio.timeout(60):
        following = asyncio.create_task(follow())
        await asyncio.gather(*(write(writer) for writer in range(8)))
        seen = await following
    assert sorted(seen) == sorted(f"{writer}/{piece}" for writer in range(8) for piece in range(10))


async def test_lines_are_read_leniently(store: Store, run: Row, node: Row) -> None:
    given: list[Any] = [
        {"text": "a", "source": "serverapp", "level": "WARN", "at": "2026-11-22T10:00:00+02:00", "node_id": node["id"]},
        {"text": "b", "source": "serverapp", "level": "loud", "at": "yesterday", "node_id": "nobody"},
        {"text": "x" * 20_000, "source": "serverapp", "level": "critical"},
        {"text": "nul \x00 and half \ud800", "source": "serverapp"},
        {"source": "serverapp"},
    ]
    await store.append_log_lines(run["id"], "server.log", 0, 9, given)
    a, b, long, odd, empty = await store.rows("log_list", {"run_id": run["id"]})
    assert (a["level"], a["at"], a["node_id"], a["node_name"]) == (
        "warning",
        datetime(2026, 11, 22, 8, tzinfo=UTC),
        node["id"],
        "Site site-a",
    )
    assert (b["level"], b["node_id"]) == ("info", None)
    assert (datetime.now(UTC) - b["at"]).total_seconds() < 60
    assert (len(long["text"]), long["level"]) == (16_384, "critical")
    assert odd["text"] == "nul \ufffd and half \ufffd"
    assert '"source"' in empty["text"]


async def test_a_piece_that_makes_no_sense_is_refused(store: Store, run: Row) -> None:
    for stream, start, end in (("", 0, 1), ("server.log", 5, 4)):
        with pytest.raises(BadValue):
            await store.append_log_lines(run["id"], stream, start, end, lines("a"))
    with pytest.raises(BadValue, match="source_is_known"):
        await store.append_log_lines(run["id"], "server.log", 0, 1, lines("a", source="rumour"))
    with pytest.raises(NoSuchRow):
        await store.append_log_lines(str(uuid4()), "server.log", 0, 1, lines("a"))
    assert await store.tail_offset(run["id"], "server.log") == 0


async def test_a_run_keeps_so_many_lines_and_says_where_the_rest_is(door: Door, store: Store, run: Row, node: Row) -> None:
    small = Store(door, log_lines_per_run=3)
    await small.append_log_lines(run["id"], "server.log", 0, 1, lines("a", "b"))
    for offset, texts in ((1, "cde"), (2, "f")):
        await small.append_log_lines(run["id"], "server.log", offset, offset + 1, lines(*texts))
    forwarded = {"source": "clientapp", "flower_run_id": "77", "lines": [{"text": "g"}]}
    report = {"seq": 1, "kind": "log", "at": None, "data": forwarded}
    assert (await small.accept_reports(node["id"], "spool", [report]))["lines"] == []
    assert await small.tail_offset(run["id"], "server.log") == 3
    told = "3 lines of this run are stored: further ones are in the files alone."
    assert [row["text"] for row in await store.rows("log_list", {"run_id": run["id"]})] == ["a", "b", "c", told]


async def test_a_cap_that_is_met_exactly_is_said_with_the_first_line_beyond(door: Door, run: Row) -> None:
    small = Store(door, log_lines_per_run=2)
    for offset, texts, levels in ((0, "ab", ["info"] * 2), (1, "c", ["info", "info", "warning"])):
        await small.append_log_lines(run["id"], "server.log", offset, offset + 1, lines(*texts))
        assert [row["level"] for row in await small.rows("log_list", {"run_id": run["id"]})] == levels


async def test_lines_are_filtered_by_level_source_and_node(store: Store, run: Row, node: Row) -> None:
    given = [
        {"text": "a", "source": "serverapp", "level": "info"},
        {"text": "b", "source": "clientapp", "level": "error", "node_id": node["id"]},
        {"text": "c", "source": "serverapp", "level": "warning"},
    ]
    await store.append_log_lines(run["id"], "server.log", 0, 1, given)

    async def found(**where: Any) -> list[str]:
        return [row["text"] for row in await store.rows("log_list", {"run_id": run["id"]} | where)]

    assert await found(level=["warning", "error"]) == ["b", "c"]
    assert await found(source="serverapp", level="info") == ["a"]
    assert await found(node_id=node["id"]) == ["b"]
    assert await found(node_id=None) == ["a", "c"]
    assert await found(level=[]) == []
