"""What has to come out alike through every door: each function, each view, each type of value."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest

from db.door import Door, Row, Where
from db.store import Store
from tests.db.conftest import BIG, sha


def names(database_url: str, query: str) -> set[str]:
    with psycopg.connect(database_url) as connection:
        return {name for (name,) in connection.execute(query.encode()).fetchall()}


def functions_in(database_url: str) -> set[str]:
    ours = "select f::oid from espalier.functions() f"
    return names(database_url, f"select proname from pg_proc where pronamespace = 'public'::regnamespace and oid in ({ours})")


def views_in(database_url: str) -> set[str]:
    return names(database_url, "select name from espalier.relations() where kind = 'view'")


class Listening:
    """A door that remembers what was asked through it."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.calls: set[str] = set()

    async def call(self, function: str, /, **args: Any) -> Any:
        self.calls.add(function)
        return await self.door.call(function, **args)

    async def rows(self, view: str, where: Where | None = None, after: int | None = None, limit: int = 100) -> list[Row]:
        return await self.door.rows(view, where, after, limit)


async def tell_a_story(store: Store, journal: Any) -> None:
    """Call every function of the database once or more."""
    await store.check_schema()
    project = await store.open_project("fed-project", "Federated Project", "coordinator", "Coordinator")
    coordinator, token = project["coordinator_node_id"], sha("token")
    await store.hold_lease(project["id"], "server-1", "host-1")
    await store.create_invitation(project["id"], sha("invitation"), "lab", 60)
    await store.check_invitation(sha("invitation"), "site-a")
    node = await store.redeem_invitation(sha("invitation"), "site-a", "Site A", "key", BIG, token)
    assert await store.find_token(token) == {"role": "node", "subject": node["id"], "project_id": project["id"]}
    await store.add_token(sha("another"), "participant", "somebody", project["id"])
    assert await store.revoke_tokens("participant", "somebody") == 1
    session = await store.open_session(coordinator, "superlink", {"port": 9092})
    assert await store.move_session(session["id"], "running", pid=4711) is not None
    await store.beat(node["id"], {"supernode_state": "running", "reported_at": "2026-11-22T10:00:00+02:00"})
    run = await store.begin_run(project["id"], "flower-app", sha("fab"), {"lr": 0.1, "name": "ü \U0001f600"}, "first", "rest")
    await store.begin_attempt(run["id"], "77", "9")
    assert (await store.adopt_run(project["id"], "77", "9", "flower-app", None, {}))["adopted"] == "attempt"
    assert await store.move_run(run["id"], "running") is not None
    journal.opened(1).whole_round(1, BIG).artifact()
    await store.apply_journal(run["id"], journal.records, 4000)
    await store.forget_projection(run["id"])
    await store.apply_journal(run["id"], journal.records, 4000)
    (artifact,) = await store.rows("artifact_list")
    assert await store.note_artifact(artifact["id"], artifact["sha256"], "stored", "s3://models/x") is not None
    model = await store.add_model(project["id"], artifact["id"], artifact["sha256"], "models/x", "admin", "it is good")
    assert (await store.promote_model(project["id"], model["version"], "admin", "it still is"))["is_latest"] is True
    await store.note_attempt("77", "stop asked")
    assert (await store.lose_attempt("77", "ServerApp died"))["status"] == "lost"
    report = {"seq": 1, "kind": "dropped", "at": None, "data": {"log_lines": 3}}
    assert (await store.accept_reports(node["id"], "spool", [report]))["applied_seq"] == 1
    await store.append_log_lines(run["id"], "server.log", 0, 9, [{"text": "a", "source": "serverapp", "node_id": node["id"]}])
    assert await store.tail_offset(run["id"], "server.log") == 9
    assert await store.prune(project["id"], 30) == 0
    await store.audit(project["id"], "admin", "node.removed", "site-a", {"why": "told"})
    assert await store.mark_lost_nodes(project["id"], 3600) == []
    assert await store.remove_node(node["id"]) is not None
    await store.release_lease(project["id"], "server-2")


async def test_every_function_answers_and_every_view_shows_rows_of_the_right_types(
    door: Door, journal: Any, database_url: str
) -> None:
    listening = Listening(door)
    store = Store(listening)
    await tell_a_story(store, journal)
    assert listening.calls == functions_in(database_url)
    with psycopg.connect(database_url) as connection:
        types = connection.execute(
            "select table_name, column_name, data_type from information_schema.columns where table_schema = 'public'"
        ).fetchall()
    for view in views_in(database_url):
        rows = await store.rows(view)
        assert rows, view
        columns = {column: kind for table, column, kind in types if table == view}
        for row in rows:
            assert row.keys() == columns.keys(), view
            wrong = {name: (columns[name], value) for name, value in row.items() if not is_right(columns[name], value)}
            assert wrong == {}, view


def is_right(kind: str, value: Any) -> bool:
    """Is this how a value of a column's type comes out of a Store?"""
    if value is None:
        return True
    if kind == "timestamp with time zone":
        return isinstance(value, datetime) and value.tzinfo is UTC
    if kind == "uuid":
        return isinstance(value, str) and str(UUID(value)) == value
    if kind in ("bigint", "integer"):
        return type(value) is int
    if kind == "double precision":
        return type(value) in (int, float)
    if kind == "boolean":
        return type(value) is bool
    return isinstance(value, dict | list) if kind in ("jsonb", "ARRAY") else isinstance(value, str)


async def test_uint64_ids_come_whole_from_every_view_and_find_their_rows(
    store: Store, node: Row, project: Row, journal: Any
) -> None:
    run = await store.begin_run(project["id"], "app", None, {}, None, "shell")
    await store.begin_attempt(run["id"], BIG, "18446744073709551614")
    journal.attempt = BIG
    await store.apply_journal(run["id"], journal.opened(1).whole_round(1, BIG).records, 1)
    for view, column in (("node_list", "flower_node_id"), ("update_list", "flower_node_id"), ("metric_list", "flower_node_id"),
                         ("attempt_list", "flower_run_id"), ("run_list", "flower_run_id")):  # fmt: skip
        for wanted in (BIG, [BIG], ["5", BIG]):
            assert {row[column] for row in await store.rows(view, {column: wanted})} == {BIG}, (view, wanted)
        assert await store.rows(view, {column: "18446744073709551614"}) == []
    assert [row["nodes"] for row in await store.rows("round_list")] == [[BIG]]


async def test_pages_beyond_a_thousand_rows_come_whole_and_in_order_and_then_an_empty_one(store: Store, project: Row) -> None:
    for piece in range(3):
        lines = [{"text": str(piece * 800 + one), "source": "superlink"} for one in range(800)]
        await store.append_log_lines(None, "superlink.log", piece, piece + 1, lines)
    pages: list[list[Row]] = []
    while not pages or pages[-1]:
        pages.append(await store.rows("log_list", None, pages[-1][-1]["key"] if pages else None, 1000))
    assert [len(page) for page in pages] == [1000, 1000, 400, 0]
    assert [row["text"] for page in pages for row in page] == [str(number) for number in range(2400)]


async def test_an_empty_database_has_empty_pages(store: Store, database_url: str) -> None:
    for view in views_in(database_url):
        assert await store.rows(view, None, 0, 1000) == []


async def test_odd_text_is_stored_and_found_as_it_is(store: Store, project: Row) -> None:
    odd = ["null", "", " ", 'a "quote"', "a,b(c).d", "back\\slash", "ü 😀", "100%", "a&b=c+d", "{1,2}", "*", "true", "12"]
    for text in odd:
        await store.audit(project["id"], "admin", text)
    assert [row["action"] for row in await store.rows("audit_list")] == odd[::-1]
    for text in odd:
        for wanted in (text, [text], [text, "nothing"]):
            assert [row["action"] for row in await store.rows("audit_list", {"action": wanted})] == [text], wanted


REPEATED: list[Callable[[Store, Row], Awaitable[Any]]] = [
    lambda store, project: store.open_project("fed-project", "Federated Project", "coordinator", "Coordinator"),
    lambda store, project: store.hold_lease(project["id"], "server-1", "host-1"),
    lambda store, project: store.release_lease(project["id"], "server-1"),
    lambda store, project: store.add_token(sha("t"), "participant", "somebody"),
    lambda store, project: store.note_attempt("77", "stop asked"),
    lambda store, project: store.lose_attempt("77", "ServerApp died"),
    lambda store, project: store.tail_offset(None, "superlink.log"),
]


@pytest.mark.parametrize("call", REPEATED)
async def test_what_may_be_sent_twice_answers_alike(
    store: Store, project: Row, run: Row, call: Callable[[Store, Row], Awaitable[Any]]
) -> None:
    first, second = await call(store, project), await call(store, project)
    for answer in (first, second):
        if isinstance(answer, dict):
            answer.pop("lease_until", None)
    assert first == second
