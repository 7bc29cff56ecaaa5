import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from uuid import uuid4

import psycopg
import pytest

from db.door import Row
from db.errors import BadValue, InvitationRefused, NodeExists, NoSuchRow, Stale
from db.store import Store

BIG = "18446744073709551615"
Enrol = Callable[..., Awaitable[Row]]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def names(events: list[Row]) -> list[str]:
    return [event["name"] for event in events]


async def redeem(store: Store, secret: str, external_id: str = "site-a") -> Row:
    return await store.redeem_invitation(sha(secret), external_id, "Site A", "key of " + secret, None, sha("token of " + secret))


async def test_an_invitation_makes_a_node_and_its_token_once(store: Store, project: Row) -> None:
    invitation = await store.create_invitation(project["id"], sha("s"), "lab 3", 60)
    assert (invitation["status"], invitation["label"]) == ("open", "lab 3")
    node = await redeem(store, "s")
    assert (node["status"], node["role"], node["external_id"], node["public_key"]) == (
        "enrolled",
        "participant",
        "site-a",
        "key of s",
    )
    assert await store.find_token(sha("token of s")) == {"role": "node", "subject": node["id"], "project_id": project["id"]}
    (listed,) = await store.rows("invitation_list")
    assert (listed["status"], listed["node_id"]) == ("used", node["id"])
    with pytest.raises(InvitationRefused) as refused:
        await redeem(store, "s", "site-b")
    assert refused.value.reason == "used"


async def test_an_unknown_and_an_expired_invitation_are_refused_with_the_reason(store: Store, project: Row) -> None:
    await store.create_invitation(project["id"], sha("old"), None, 0)
    for secret, reason in (("never made", "unknown"), ("old", "expired")):
        with pytest.raises(InvitationRefused) as refused:
            await redeem(store, secret)
        assert refused.value.reason == reason


async def test_of_eight_that_redeem_one_invitation_at_once_one_becomes_a_node(
    store: Store, project: Row, database_url: str
) -> None:
    await store.create_invitation(project["id"], sha("s"), None, 60)
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    with psycopg.connect(database_url) as writer, psycopg.connect(database_url, autocommit=True) as observer:
        writer.execute("select espalier.lock_project(%s)", [project["id"]])
        redeemers = [
            asyncio.create_task(store.redeem_invitation(sha("s"), f"site-{n}", "Site", "key", None, sha(f"token {n}")))
            for n in range(8)
        ]
        async with asyncio.timeout(30):
            while observer.execute(waiting).fetchone() != (8,):  # noqa: ASYNC110 - until all are in the middle of it
                await asyncio.sleep(0.01)
        writer.rollback()
        answers = await asyncio.gather(*redeemers, return_exceptions=True)
    assert sum(isinstance(answer, dict) for answer in answers) == 1
    assert {answer.reason for answer in answers if isinstance(answer, InvitationRefused)} == {"used"}
    assert len(await store.rows("node_list", {"role": "participant"})) == 1


async def test_an_external_id_that_is_enrolled_is_refused_and_the_invitation_stays_open(
    store: Store, project: Row, node: Row
) -> None:
    await store.create_invitation(project["id"], sha("s"), None, 60)
    with pytest.raises(NodeExists, match="site-a"):
        await store.check_invitation(sha("s"), node["external_id"])
    with pytest.raises(NodeExists, match="site-a"):
        await redeem(store, "s", node["external_id"])
    with pytest.raises(NodeExists):
        await redeem(store, "s", "coordinator")
    assert (await redeem(store, "s", "site-b"))["external_id"] == "site-b"


async def test_a_removed_node_is_enrolled_again_under_its_id_with_a_new_key(store: Store, project: Row, node: Row) -> None:
    removed = await store.remove_node(node["id"])
    assert removed is not None
    assert removed["status"] == "removed"
    assert await store.find_token(sha("node token 1")) is None
    assert await store.remove_node(node["id"]) is None
    await store.create_invitation(project["id"], sha("s"), None, 60)
    again = await redeem(store, "s", "site-a")
    assert (again["id"], again["status"], again["public_key"], again["flower_node_id"], again["removed_at"]) == (
        node["id"],
        "enrolled",
        "key of s",
        None,
        None,
    )


async def test_the_coordinator_and_unknown_nodes_cannot_be_removed(store: Store, project: Row) -> None:
    assert await store.remove_node(project["coordinator_node_id"]) is None
    assert await store.remove_node(str(uuid4())) is None


async def test_a_flower_node_id_keeps_all_its_64_bits_and_is_one_nodes(store: Store, node: Row, enrol: Enrol) -> None:
    assert node["flower_node_id"] == BIG
    with pytest.raises(NodeExists, match="Flower node id"):
        await enrol("site-b", BIG)
    with pytest.raises(BadValue, match="uint64"):
        await enrol("site-b", "18446744073709551616")
    assert (await enrol("site-b", "5"))["flower_node_id"] == "5"


async def test_a_beat_brings_a_node_online_or_offline_and_tells_it_once(store: Store, node: Row) -> None:
    first = await store.beat(node["id"], {"supernode_state": "running", "reported_at": "2026-11-22T10:00:00+02:00", "x": 1})
    assert (first["status"], first["joined"], names(first["events"])) == ("online", True, ["fl.client.joined"])
    assert first["reported_at"].isoformat() == "2026-11-22T08:00:00+00:00"
    assert first["facts"]["x"] == 1
    second = await store.beat(node["id"], {"supernode_state": "running"})
    assert (second["joined"], second["events"], second["reported_at"]) == (False, [], None)
    assert second["last_seen_at"] > first["last_seen_at"]
    third = await store.beat(node["id"], {"supernode_state": "stopped"})
    assert (third["status"], names(third["events"])) == ("offline", ["fl.client.dropped"])


async def test_a_malformed_time_of_a_node_is_no_time(store: Store, node: Row) -> None:
    for value in ("yesterday", "2026-13-45T99:00:00Z", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", 7, None):
        assert (await store.beat(node["id"], {"supernode_state": "running", "reported_at": value}))["reported_at"] is None


async def test_a_beat_of_an_unknown_or_removed_node_is_refused(store: Store, node: Row) -> None:
    with pytest.raises(NoSuchRow):
        await store.beat(str(uuid4()), {})
    await store.remove_node(node["id"])
    with pytest.raises(Stale, match="removed"):
        await store.beat(node["id"], {"supernode_state": "running"})


async def test_a_silent_node_is_lost_by_the_databases_clock_and_joins_again(
    store: Store, project: Row, node: Row, database_url: str
) -> None:
    await store.beat(node["id"], {"supernode_state": "running", "reported_at": "1999-01-01T00:00:00Z"})
    assert await store.mark_lost_nodes(project["id"], 15) == []
    with psycopg.connect(database_url) as connection:
        connection.execute("update nodes set last_seen_at = now() - interval '16 seconds' where id = %s", [node["id"]])
    (lost,) = await store.mark_lost_nodes(project["id"], 15)
    assert (lost["id"], lost["status"], names(lost["events"])) == (node["id"], "lost", ["fl.client.dropped"])
    assert lost["events"][0]["data"] == {"from": "online", "to": "lost", "reason": "silent", "silent_s": 15}
    assert await store.mark_lost_nodes(project["id"], 15) == []
    back = await store.beat(node["id"], {"supernode_state": "running"})
    assert (back["joined"], names(back["events"])) == (True, ["fl.client.joined"])


async def test_a_node_that_only_enrolled_and_the_coordinator_are_never_lost(store: Store, project: Row, node: Row) -> None:
    assert await store.mark_lost_nodes(project["id"], 0) == []


async def test_beats_of_eight_nodes_at_once_tell_each_join_once(store: Store, enrol: Enrol) -> None:
    nodes = [await enrol(f"site-{n}") for n in range(8)]
    beats = await asyncio.gather(*(store.beat(one["id"], {"supernode_state": "running"}) for one in nodes for _ in range(3)))
    told = [event["key"] for beat in beats for event in beat["events"]]
    assert len(told) == len(set(told)) == 8
    assert len(await store.rows("event_list", {"name": "fl.client.joined"})) == 8


async def test_a_session_goes_through_its_states_and_not_back(store: Store, project: Row) -> None:
    session = await store.open_session(project["coordinator_node_id"], "superlink", {"port": 9092})
    assert (session["status"], session["runtime_config"]) == ("starting", {"port": 9092})
    running = await store.move_session(session["id"], "running", pid=4711)
    assert running is not None
    assert (running["status"], running["pid"], running["ended_at"]) == ("running", 4711, None)
    assert await store.move_session(session["id"], "running") is None
    failed = await store.move_session(session["id"], "failed", reason="exit code 3", last_lines=["a", "b"])
    assert failed is not None
    assert (failed["reason"], failed["last_lines"], failed["pid"]) == ("exit code 3", ["a", "b"], 4711)
    assert failed["ended_at"] is not None
    assert await store.move_session(session["id"], "stopped") is None


async def test_a_state_that_no_session_reaches_and_an_unknown_session_are_refused(store: Store, project: Row) -> None:
    session = await store.open_session(project["coordinator_node_id"], "superlink", {})
    for status in ("starting", "asleep"):
        with pytest.raises(BadValue, match=status):
            await store.move_session(session["id"], status)
    with pytest.raises(NoSuchRow):
        await store.move_session(str(uuid4()), "running")
    with pytest.raises(NoSuchRow):
        await store.open_session(str(uuid4()), "superlink", {})
    with pytest.raises(BadValue, match="kind_is_known"):
        await store.open_session(project["coordinator_node_id"], "serverapp", {})


async def test_a_new_session_makes_an_open_one_of_its_node_and_kind_lost(store: Store, project: Row) -> None:
    old = await store.open_session(project["coordinator_node_id"], "superlink", {})
    new = await store.open_session(project["coordinator_node_id"], "superlink", {})
    rows = await store.rows("session_list")
    assert [(row["id"], row["status"]) for row in rows] == [(new["id"], "starting"), (old["id"], "lost")]


async def test_of_eight_that_move_a_session_at_once_one_is_first(store: Store, project: Row) -> None:
    session = await store.open_session(project["coordinator_node_id"], "superlink", {})
    moves = await asyncio.gather(*(store.move_session(session["id"], "running", pid=n) for n in range(8)))
    assert sum(move is not None for move in moves) == 1
