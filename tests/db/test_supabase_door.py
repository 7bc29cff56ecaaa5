"""What the door to Supabase does beyond what every door must do: keys, the gateway, broken connections."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from db.door import Door
from db.errors import (
    BadValue,
    DatabaseError,
    DatabaseFull,
    DatabaseReadOnly,
    DatabaseUnavailable,
    KeyRefused,
    MissingFunction,
    ProjectPaused,
    SchemaMismatch,
)
from db.store import Store
from db.supabase_door import SupabaseDoor
from tests.db import lite
from tests.db.deadlock import CROSS_OVER

SECRET = "sb_secret_of_nobody"


@asynccontextmanager
async def gateway(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve these answers, one a connection and the last for ever, and give the address and what was asked; b"" hangs up."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            asked.append(head.split(b"\r\n")[0])
            writer.write(answers[min(len(asked), len(answers)) - 1])
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


def answer(status: int, body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("told", "expected", "words"),
    [
        (answer(401, b'{"message":"Invalid API key"}'), KeyRefused, "SUPABASE_KEY"),
        (answer(540, b"<html>paused</html>", "text/html"), ProjectPaused, "dashboard"),
        (answer(503, b'{"code":"PGRST002","message":"no schema cache"}'), DatabaseUnavailable, "503"),
        (answer(503, b'{"code":"53100","message":"could not extend file"}'), DatabaseFull, "make room"),
        (answer(503, b"<html>no server</html>", "text/html"), DatabaseUnavailable, "503"),
        (answer(405, b'{"code":"25006","message":"cannot execute INSERT"}'), DatabaseReadOnly, "primary"),
        (answer(522, b"<html>timed out</html>", "text/html"), DatabaseUnavailable, "522"),
        (answer(429, b"{}"), DatabaseUnavailable, "429"),
        (answer(404, b"<html>not here</html>", "text/html"), DatabaseError, "SUPABASE_URL"),
        (answer(200, b"<html>a page</html>", "text/html"), DatabaseError, "SUPABASE_URL"),
        (answer(404, b'{"code":"PGRST202","message":"Could not find the function"}'), MissingFunction, "find"),
        (answer(404, b'{"code":"PGRST205","message":"Could not find the table"}'), BadValue, "table"),
        (answer(404, b'{"code":"42P01","message":"no such relation"}'), BadValue, "relation"),
        (answer(403, b'{"code":"42501","message":"permission denied"}'), DatabaseError, "42501"),
        (
            answer(500, b'{"code":"57014","message":"canceling statement due to statement timeout"}'),
            DatabaseUnavailable,
            "timeout",
        ),
    ],
)
async def test_each_answer_of_the_gateway_has_its_error(told: bytes, expected: type[DatabaseError], words: str) -> None:
    async with gateway(told) as (url, _):
        door = SupabaseDoor(url, SECRET)
        with pytest.raises(DatabaseError, match=words) as raised:
            await door.call("beat")
        assert type(raised.value) is expected
        await door.close()


async def test_a_project_that_is_not_there_is_unavailable() -> None:
    door = SupabaseDoor("http://127.0.0.1:1", SECRET)
    with pytest.raises(DatabaseUnavailable, match="paused"):
        await door.open()
    await door.close()


@pytest.mark.parametrize(
    ("ask", "times"),
    [
        (lambda door: door.rows("run_list"), 3),
        (lambda door: door.call("hold_lease", p_project_id="x"), 3),
        (lambda door: door.call("append_log_lines", p_start=0), 1),
        (lambda door: door.call("begin_run"), 1),
    ],
)
async def test_only_what_answers_alike_twice_is_sent_again(ask: Callable[[Door], Any], times: int) -> None:
    async with gateway(b"") as (url, asked):
        door = SupabaseDoor(url, SECRET)
        with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
            await ask(door)
        assert len(asked) == times
        await door.close()


async def test_a_read_whose_connection_broke_is_made_again() -> None:
    async with gateway(b"", answer(200, b'[{"key": 1}]')) as (url, asked):
        door = SupabaseDoor(url, SECRET)
        assert await door.rows("run_list") == [{"key": 1}]
        assert asked == [b"GET /rest/v1/run_list?select=%2A&order=key.asc&limit=100 HTTP/1.1"] * 2
        await door.close()


async def test_a_server_that_is_silent_is_given_up() -> None:
    async with gateway(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n") as (url, _):
        door = SupabaseDoor(url, SECRET, answer_s=0.2)
        with pytest.raises(DatabaseUnavailable):
            await door.call("begin_run")
        await door.close()


async def test_what_no_json_can_say_is_a_bad_value() -> None:
    door = SupabaseDoor("http://127.0.0.1:1", SECRET)
    for value in (float("nan"), "half \ud800"):
        with pytest.raises(BadValue):
            await door.call("begin_run", p_label=value)
    await door.close()


async def test_another_key_is_refused_in_one_sentence(lite_server: lite.Lite, supabase_database: str) -> None:
    for key in ("sb_secret_of_another_project", lite_server.publishable_key):
        door = SupabaseDoor(lite_server.url_of("supabase"), key)
        with pytest.raises(KeyRefused, match="SUPABASE_KEY"):
            await door.open()
        await door.close()


async def test_a_key_for_pages_reads_and_calls_nothing(lite_server: lite.Lite, supabase_database: str) -> None:
    with psycopg.connect(supabase_database) as connection:
        views = connection.execute("select viewname from pg_views where schemaname = 'public'").fetchall()
    door = SupabaseDoor(lite_server.url_of("supabase"), lite_server.publishable_key)
    assert len(views) == 21
    for (view,) in views:
        with pytest.raises(KeyRefused):
            await door.rows(view)
    await door.close()


async def test_a_project_without_our_schema_says_how_to_make_it(lite_server: lite.Lite, postgres_server: str) -> None:
    lite.prepare(postgres_server, "bare", migrated=False)
    door = SupabaseDoor(lite_server.url_of("bare"), lite_server.secret_key)
    await door.open()
    with pytest.raises(SchemaMismatch, match="python -m db migrate"):
        await Store(door).check_schema()
    await door.close()


async def test_a_deadlock_is_made_again_and_both_calls_succeed(lite_server: lite.Lite, postgres_server: str) -> None:
    with psycopg.connect(lite.prepare(postgres_server, "crossing", migrated=False), autocommit=True) as connection:
        connection.execute(CROSS_OVER)
        connection.execute("grant all on pair to service_role")
        door = SupabaseDoor(lite_server.url_of("crossing"), lite_server.secret_key)
        calls = [door.call("cross_over", p_first=1, p_second=2), door.call("cross_over", p_first=2, p_second=1)]
        assert await asyncio.gather(*calls) == [True, True]
        assert connection.execute("select n from pair").fetchall() == [(2,), (2,)]
        await door.close()
