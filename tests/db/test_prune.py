"""What is old goes in batches, what is kept for ever stays, and nobody waits for it."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from db.door import Row
from db.postgres_door import PostgresDoor
from db.store import Store
from tests.db.conftest import AT, BIG, Journal, sha

Enrol = Callable[..., Awaitable[Row]]
NO_WAIT = "-c lock_timeout=1ms"
# Everything that has an age, made 31 days old.
AGE = """
    update log_lines set received_at = received_at - interval '31 days';
    update events set at = at - interval '31 days';
    update node_sessions set ended_at = ended_at - interval '31 days';
    update invitations set expires_at = expires_at - interval '31 days', used_at = used_at - interval '31 days';
    update federated_runs set created_at = created_at - interval '31 days', ended_at = ended_at - interval '31 days';
    update audit_log set at = at - interval '31 days';
    update tokens set revoked_at = revoked_at - interval '31 days';
    update report_spools set updated_at = updated_at - interval '31 days';
"""
TABLES = "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"


def lines(*texts: str, source: str = "serverapp") -> list[dict[str, Any]]:
    return [{"text": text, "source": source} for text in texts]


def counts(url: str) -> dict[str, int]:
    with psycopg.connect(url) as connection:
        names = [name for (name,) in connection.execute(TABLES).fetchall()]
        return {name: connection.execute(f"select from public.{name}".encode()).rowcount for name in names}


def age(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(AGE.encode())


async def live_a_while(store: Store, project: Row, node: Row, run: Row) -> None:
    """Leave rows in every table that grows: a run of one round that has ended, a SuperNode that came and went three times."""
    journal = Journal().opened(1).whole_round(1, BIG).artifact().closed()
    await store.apply_journal(run["id"], journal.records, 1)
    await store.append_log_lines(run["id"], "server.log", 0, 1, lines("of a run"))
    await store.append_log_lines(None, "superlink.log", 0, 1, lines("of no run", source="superlink"))
    for seq in range(3):
        data = {"session_id": str(uuid4()), "status": "running"}
        said = [{"seq": 2 * seq + 1, "kind": "session", "at": AT, "data": data}]
        said.append({"seq": 2 * seq + 2, "kind": "session", "at": AT, "data": data | {"status": "failed"}})
        await store.accept_reports(node["id"], "spool", said)
    await store.create_invitation(project["id"], sha("expired"), "x", 60)
    await store.add_token(sha("revoked"), "participant", "somebody", project["id"])
    await store.revoke_tokens("participant", "somebody")
    await store.audit(project["id"], "admin", "run.start")


async def test_what_is_old_goes_and_what_a_run_has_stays(
    store: Store, project: Row, node: Row, run: Row, database_url: str
) -> None:
    await live_a_while(store, project, node, run)
    before = counts(database_url)
    assert await store.prune(project["id"], 30) == 0
    age(database_url)
    gone = {"log_lines": 2, "events": 6, "node_sessions": 2, "invitations": 2}
    assert await store.prune(project["id"], 30) == sum(gone.values())
    assert counts(database_url) == {table: count - gone.get(table, 0) for table, count in before.items()}
    assert {event["run_id"] for event in await store.rows("event_list")} == {run["id"]}
    assert [row["status"] for row in await store.rows("session_list")] == ["failed"]
    assert await store.find_token(sha("revoked")) is None
    assert await store.prune(project["id"], 30) == 0


async def test_what_is_young_open_or_of_a_run_that_goes_on_stays(
    store: Store, project: Row, node: Row, run: Row, database_url: str
) -> None:
    await store.append_log_lines(run["id"], "server.log", 0, 1, lines("old"))
    await store.open_session(node["id"], "supernode", {})
    age(database_url)
    await store.move_run(run["id"], "running")
    await store.create_invitation(project["id"], sha("open"), "x", 60)
    await store.append_log_lines(None, "superlink.log", 0, 1, lines("new", source="superlink"))
    before = counts(database_url)
    assert await store.prune(project["id"], 30) == 1  # the invitation by which the node came
    assert counts(database_url) == before | {"invitations": before["invitations"] - 1}


async def test_another_projects_rows_are_its_own(store: Store, project: Row, node: Row, run: Row, database_url: str) -> None:
    await live_a_while(store, project, node, run)
    other = await store.open_project("other", "Other", "coordinator", "Coordinator")
    stray = {"source": "clientapp", "flower_run_id": "12", "lines": ["of a run that nobody adopted"]}
    await store.accept_reports(node["id"], "stray", [{"seq": 1, "kind": "log", "at": None, "data": stray}])
    age(database_url)
    before = counts(database_url)
    assert await store.prune(other["id"], 30) == 1  # a SuperLink's line says of no project whose it is; a node's does
    assert counts(database_url) == before | {"log_lines": before["log_lines"] - 1}


@pytest.mark.one_door
async def test_a_batch_has_so_many_rows_and_lines_go_from_the_oldest_on(
    store: Store, project: Row, node: Row, run: Row, database_url: str
) -> None:
    await live_a_while(store, project, node, run)
    await store.append_log_lines(run["id"], "server.log", 1, 2, lines("b", "c", "d"))
    age(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        left: list[list[str]] = []
        batches: list[int] = []
        while not batches or batches[-1] == 2:
            (gone,) = connection.execute("select prune(%s, 30, 2)::int", [project["id"]]).fetchone() or (0,)
            batches.append(gone)
            left.append([row["text"] for row in await store.rows("log_list", {"run_id": run["id"]})])
    assert left[:3] == [["c", "d"], [], []]
    assert batches == [2, 2, 2, 2, 2, 2, 2, 1]


@pytest.mark.one_door
async def test_lines_that_a_young_one_stands_before_go_with_the_next_batch(
    store: Store, project: Row, run: Row, database_url: str
) -> None:
    await store.append_log_lines(run["id"], "server.log", 0, 1, lines("a", "b", "c"))
    await store.move_run(run["id"], "stopped")
    age(database_url)
    with psycopg.connect(database_url) as connection:
        connection.execute("update log_lines set received_at = now() where text = 'a'")
    assert await store.prune(project["id"], 30) == 2
    assert [row["text"] for row in await store.rows("log_list")] == ["a"]


@pytest.mark.one_door
async def test_pruning_waits_for_no_reader_and_no_writer(
    store: Store, project: Row, node: Row, run: Row, database_url: str
) -> None:
    await live_a_while(store, project, node, run)
    age(database_url)
    with psycopg.connect(database_url) as writer, psycopg.connect(database_url, options=NO_WAIT) as pruner:
        writer.execute("select espalier.lock_project(%s)", [project["id"]])
        writer.execute("select accept_reports(%s, 'spool', '[]', 1)", [node["id"]])
        for table in ("log_lines", "events", "node_sessions", "invitations"):
            assert len(writer.execute(f"select from {table}".encode()).fetchall()) > 1
            of_no_run = "where run_id is null" if table == "events" else ""
            oldest = f"select from {table} {of_no_run} order by key limit 1 for update"
            assert writer.execute(oldest.encode()).rowcount == 1
        assert pruner.execute("select prune(%s, 30, 100)::int", [project["id"]]).fetchone() == (8,)
    assert await store.prune(project["id"], 30) == 4


@pytest.mark.one_door
async def test_no_reader_and_no_writer_waits_for_a_batch(
    store: Store, project: Row, node: Row, run: Row, enrol: Enrol, database_url: str
) -> None:
    await live_a_while(store, project, node, run)
    age(database_url)
    door = PostgresDoor(make_conninfo(database_url, options=NO_WAIT))
    hasty = Store(door)
    with psycopg.connect(database_url) as pruner:
        assert pruner.execute("select prune(%s, 30, 100)::int", [project["id"]]).fetchone() == (12,)
        for view in ("log_list", "event_list", "session_list", "invitation_list", "run_overview", "node_overview", "run_size"):
            assert await hasty.rows(view), view  # as it was before the batch
        await hasty.beat(node["id"], {"supernode_state": "running"})
        said = {"session_id": str(uuid4()), "status": "running"}
        await hasty.accept_reports(node["id"], "spool", [{"seq": 7, "kind": "session", "at": AT, "data": said}])
        second = await hasty.begin_run(project["id"], "app", None, {}, None, "rest")
        await hasty.begin_attempt(second["id"], "78", "10")
        await hasty.apply_journal(second["id"], Journal("78").opened(1).whole_round(1, BIG).closed().records, 1)
        await hasty.append_log_lines(run["id"], "server.log", 1, 2, lines("new"))
        await hasty.append_log_lines(None, "superlink.log", 1, 2, lines("new", source="superlink"))
        await hasty.create_invitation(project["id"], sha("new"), "x", 60)
        # Another pruner passes over what this one holds, and takes the session that is no longer the node's newest.
        assert await hasty.prune(project["id"], 30) == 1
        assert pruner.execute("select count(*) from pg_locks where not granted").fetchone() == (0,)
    await door.close()
