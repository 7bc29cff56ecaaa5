import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from db.door import Row
from db.errors import BadValue, NodeExists
from db.store import Store


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def test_opening_a_project_again_renames_it_and_its_coordinator(store: Store) -> None:
    first = await store.open_project("p", "Old", "c-1", "Old coordinator")
    second = await store.open_project("p", "New", "c-2", "New coordinator")
    assert (second["id"], second["coordinator_node_id"], second["name"]) == (first["id"], first["coordinator_node_id"], "New")
    (listed,) = await store.rows("project_list", {"slug": "p"})
    assert (listed["coordinator_external_id"], listed["coordinator_name"]) == ("c-2", "New coordinator")


@pytest.mark.one_door
@pytest.mark.parametrize("slug", ["", "-a", "a b", "a/b", "x" * 64])
async def test_a_slug_that_is_no_plain_word_is_refused(store: Store, slug: str) -> None:
    with pytest.raises(BadValue, match="projects_slug_is_plain"):
        await store.open_project(slug, "Name", "c", "C")


async def test_the_coordinator_cannot_take_a_participants_id(store: Store, node: Row) -> None:
    with pytest.raises(NodeExists):
        await store.open_project("fed-project", "Federated Project", node["external_id"], "Coordinator")


async def test_a_lease_is_held_by_one_server_for_15_s_and_retaken_at_once_by_it(store: Store, project: Row) -> None:
    mine = await store.hold_lease(project["id"], "server-1", "host-1")
    assert mine["held"]
    assert timedelta(seconds=10) < mine["lease_until"] - datetime.now(UTC) <= timedelta(seconds=16)
    theirs = await store.hold_lease(project["id"], "server-2", "host-2")
    assert (theirs["held"], theirs["server_id"], theirs["host"]) == (False, "server-1", "host-1")
    again = await store.hold_lease(project["id"], "server-1", "host-1")
    assert again["held"]
    assert again["taken_at"] == mine["taken_at"]


async def test_a_lease_is_taken_over_when_it_was_given_back(store: Store, project: Row) -> None:
    await store.hold_lease(project["id"], "server-1", "host-1")
    await store.release_lease(project["id"], "server-2")
    assert not (await store.hold_lease(project["id"], "server-2", "host-2"))["held"]
    await store.release_lease(project["id"], "server-1")
    assert (await store.hold_lease(project["id"], "server-2", "host-2"))["held"]


async def test_a_lease_is_taken_over_when_it_has_run_out(store: Store, project: Row, database_url: str) -> None:
    await store.hold_lease(project["id"], "server-1", "host-1")
    with psycopg.connect(database_url) as connection:
        connection.execute("update coordinators set lease_until = now() - interval '1 second'")
    assert (await store.hold_lease(project["id"], "server-2", "host-2"))["held"]
    assert not (await store.hold_lease(project["id"], "server-1", "host-1"))["held"]


async def test_of_eight_servers_that_ask_at_once_one_holds_the_lease(store: Store, project: Row) -> None:
    answers = await asyncio.gather(*(store.hold_lease(project["id"], f"server-{n}", "host") for n in range(8)))
    assert sum(answer["held"] for answer in answers) == 1
    assert len({answer["server_id"] for answer in answers}) == 1


async def test_a_token_is_found_by_its_hash_until_it_is_revoked(store: Store, project: Row) -> None:
    await store.add_token(sha("secret"), "participant", "user-1", project["id"])
    assert await store.find_token(sha("secret")) == {"role": "participant", "subject": "user-1", "project_id": project["id"]}
    assert await store.find_token(sha("other")) is None
    assert await store.revoke_tokens("participant", "user-1") == 1
    assert await store.find_token(sha("secret")) is None
    assert await store.revoke_tokens("participant", "user-1") == 0


async def test_adding_a_revoked_token_again_does_not_let_it_in(store: Store) -> None:
    await store.add_token(sha("secret"), "participant", "user-1")
    await store.revoke_tokens("participant", "user-1")
    await store.add_token(sha("secret"), "participant", "user-1")
    assert await store.find_token(sha("secret")) is None


async def test_a_token_of_an_unknown_role_or_in_the_clear_is_refused(store: Store) -> None:
    with pytest.raises(BadValue, match="tokens_role_is_known"):
        await store.add_token(sha("secret"), "root")
    with pytest.raises(BadValue, match="tokens_sha256_is_hex"):
        await store.add_token("the secret itself", "admin")


async def test_the_audit_log_says_who_did_what_newest_first(store: Store, project: Row) -> None:
    await store.audit(project["id"], "admin", "node.removed", "site-a", {"why": "test"})
    await store.audit(project["id"], "admin", "run.stopped")
    rows = await store.rows("audit_list", {"project_id": project["id"]})
    assert [(row["action"], row["subject"], row["facts"]) for row in rows] == [
        ("run.stopped", None, {}),
        ("node.removed", "site-a", {"why": "test"}),
    ]
