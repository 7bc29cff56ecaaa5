import asyncio
import hashlib
from uuid import uuid4

import pytest

from db.door import Row
from db.errors import ActiveRunExists, BadValue, NoSuchRow, Stale
from db.store import Store

FAB = hashlib.sha256(b"fab").hexdigest()


def names(events: list[Row]) -> list[str]:
    return [event["name"] for event in events]


async def begin(store: Store, project: Row, origin: str = "rest", fab_hash: str = FAB) -> Row:
    return await store.begin_run(project["id"], "flower-app", fab_hash, {"lr": 0.1}, "label", origin)


async def adopt(
    store: Store, project: Row, flower_run_id: str, series_id: str, config: Row | None = None, fab_hash: str = FAB
) -> Row:
    return await store.adopt_run(project["id"], flower_run_id, series_id, "some-app", fab_hash, config or {})


async def test_a_run_begins_as_an_intent(store: Store, project: Row) -> None:
    run = await begin(store, project)
    assert (run["status"], run["origin"], run["config"], run["fab_hash"]) == ("pending", "rest", {"lr": 0.1}, FAB)
    assert (run["attempts"], run["rounds_done"], run["warnings"], run["metrics"], run["cause"]) == (0, 0, 0, {}, None)
    assert (run["started_at"], run["seconds"]) == (None, None)
    assert names(run["events"]) == ["fl.federation.created"]


async def test_a_second_active_run_by_rest_is_refused_with_the_first_ones_id(store: Store, project: Row) -> None:
    first = await begin(store, project)
    with pytest.raises(ActiveRunExists) as refused:
        await begin(store, project)
    assert refused.value.run_id == first["id"]
    await store.move_run(first["id"], "failed")
    assert (await begin(store, project))["status"] == "pending"


async def test_runs_from_the_shell_are_always_recorded(store: Store, project: Row) -> None:
    await begin(store, project)
    await begin(store, project, "shell")
    await begin(store, project, "shell")
    assert len(await store.rows("run_list", {"project_id": project["id"], "status": "pending"})) == 3


async def test_of_eight_that_start_at_once_one_run_begins(store: Store, project: Row) -> None:
    answers = await asyncio.gather(*(begin(store, project) for _ in range(8)), return_exceptions=True)
    (run,) = [answer for answer in answers if isinstance(answer, dict)]
    assert {answer.run_id for answer in answers if isinstance(answer, ActiveRunExists)} == {run["id"]}
    assert len(await store.rows("event_list", {"name": "fl.federation.created"})) == 1


@pytest.mark.one_door
async def test_another_project_has_its_own_active_run(store: Store, project: Row) -> None:
    other = await store.open_project("other", "Other", "coordinator", "Coordinator")
    await begin(store, project)
    assert (await begin(store, other))["project_id"] == other["id"]


async def test_an_attempt_is_recorded_once_and_starts_the_run(store: Store, project: Row) -> None:
    run = await begin(store, project)
    first = await store.begin_attempt(run["id"], "18446744073709551615", "18446744073709551614")
    assert (first["attempt"], first["flower_run_id"], first["status"], first["run_status"]) == (
        1,
        "18446744073709551615",
        "starting",
        "starting",
    )
    again = await store.begin_attempt(run["id"], "18446744073709551615", "18446744073709551614")
    assert again == first
    (row,) = await store.rows("run_list", {"series_id": "18446744073709551614"})
    assert (row["flower_run_id"], row["attempts"]) == ("18446744073709551615", 1)


async def test_a_later_attempt_makes_the_open_one_before_it_lost(store: Store, run: Row) -> None:
    await store.move_run(run["id"], "running")
    second = await store.begin_attempt(run["id"], "78", "9")
    assert (second["attempt"], second["run_status"]) == (2, "running")
    rows = await store.rows("attempt_list", {"run_id": run["id"]})
    assert [(row["flower_run_id"], row["status"]) for row in rows] == [("77", "lost"), ("78", "starting")]


@pytest.mark.one_door
async def test_the_attempt_of_a_run_that_was_stopped_meanwhile_is_stopped(store: Store, project: Row) -> None:
    run = await begin(store, project)
    await store.move_run(run["id"], "stopped")
    attempt = await store.begin_attempt(run["id"], "77", "9")
    assert (attempt["status"], attempt["run_status"]) == ("stopped", "stopped")


async def test_a_flower_run_belongs_to_one_run(store: Store, project: Row, run: Row) -> None:
    other = await begin(store, project, "shell")
    with pytest.raises(Stale, match="77"):
        await store.begin_attempt(other["id"], "77", "10")
    with pytest.raises(NoSuchRow):
        await store.begin_attempt(str(uuid4()), "78", "9")
    with pytest.raises(BadValue, match="uint64"):
        await store.begin_attempt(other["id"], "-1", "10")


async def test_a_flower_run_of_an_open_intents_fab_is_that_intent(store: Store, project: Row) -> None:
    intent = await begin(store, project)
    adopted = await adopt(store, project, "77", "9")
    assert (adopted["adopted"], adopted["id"], adopted["origin"], adopted["status"]) == (
        "intent",
        intent["id"],
        "rest",
        "starting",
    )
    again = await adopt(store, project, "77", "9")
    assert (again["adopted"], again["id"], again["attempts"]) == ("attempt", intent["id"], 1)


@pytest.mark.one_door
async def test_a_flower_run_that_names_its_intent_is_that_intent_and_no_other(store: Store, project: Row) -> None:
    intent = await begin(store, project)
    stranger = await adopt(store, project, "76", "8", {"current-run-id": str(uuid4())})
    assert (stranger["adopted"], stranger["origin"], stranger["app"]) == ("new", "shell", "some-app")
    adopted = await adopt(store, project, "77", "9", {"current-run-id": intent["id"]}, "another fab hash")
    assert (adopted["adopted"], adopted["id"]) == ("intent", intent["id"])


@pytest.mark.one_door
async def test_a_flower_run_with_another_fab_or_after_the_intents_attempt_is_a_new_one(store: Store, project: Row) -> None:
    intent = await begin(store, project)
    other = await adopt(store, project, "70", "7", fab_hash="0" * 64)
    assert (other["adopted"], names(other["events"])) == ("new", ["fl.federation.created"])
    await store.begin_attempt(intent["id"], "77", "9")
    assert (await adopt(store, project, "78", "10"))["adopted"] == "new"


async def test_a_flower_run_of_a_known_series_is_another_attempt(store: Store, project: Row, run: Row) -> None:
    adopted = await adopt(store, project, "78", "9")
    assert (adopted["adopted"], adopted["id"], adopted["attempts"], adopted["flower_run_id"]) == ("series", run["id"], 2, "78")


async def test_eight_that_adopt_one_flower_run_at_once_agree(store: Store, project: Row) -> None:
    intent = await begin(store, project)
    rows = await asyncio.gather(*(adopt(store, project, "77", "9") for _ in range(8)))
    assert {row["id"] for row in rows} == {intent["id"]}
    assert [row["adopted"] for row in rows].count("intent") == 1
    assert len(await store.rows("attempt_list")) == 1


PATHS = [
    ["starting", "running", "completed"],
    ["starting", "running", "paused", "running", "stopping", "stopped"],
    ["stopping", "stopped"],
    ["starting", "failed"],
    ["starting", "completed"],
    ["starting", "running", "paused", "stopping", "completed"],
]


@pytest.mark.one_door
@pytest.mark.parametrize("path", PATHS)
async def test_a_run_goes_along_its_transitions(store: Store, project: Row, path: list[str]) -> None:
    run = await begin(store, project, "shell")
    for status in path:
        moved = await store.move_run(run["id"], status)
        assert moved is not None
        assert moved["status"] == status
    (ended,) = await store.rows("run_list")
    assert ended["ended_at"] is not None


@pytest.mark.one_door
@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ([], "running"),
        ([], "completed"),
        (["starting", "running"], "starting"),
        (["starting"], "paused"),
        (["stopping"], "running"),
        (["starting", "running", "completed"], "failed"),
        (["failed"], "running"),
        (["stopped"], "stopped"),
    ],
)
async def test_a_step_that_the_transition_table_lacks_changes_nothing(
    store: Store, project: Row, path: list[str], refused: str
) -> None:
    run = await begin(store, project, "shell")
    for status in path:
        await store.move_run(run["id"], status)
    (before,) = await store.rows("run_list")
    assert await store.move_run(run["id"], refused) is None
    (after,) = await store.rows("run_list")
    assert {**after, "seconds": None} == {**before, "seconds": None}


@pytest.mark.one_door
async def test_a_status_that_no_run_reaches_is_refused(store: Store, run: Row) -> None:
    for status in ("pending", "finished"):
        with pytest.raises(BadValue, match=status):
            await store.move_run(run["id"], status)
    with pytest.raises(NoSuchRow):
        await store.move_run(str(uuid4()), "running")
    with pytest.raises(BadValue):
        await store.move_run("no uuid", "running")


async def test_a_move_that_expects_another_state_changes_nothing(store: Store, run: Row) -> None:
    assert await store.move_run(run["id"], "stopping", expected=["running", "paused"]) is None
    assert await store.move_run(run["id"], "stopping", expected="starting") is not None


async def test_of_eight_that_end_a_run_at_once_one_is_first(store: Store, run: Row) -> None:
    moves = await asyncio.gather(*(store.move_run(run["id"], status) for status in ("failed", "stopped") * 4))
    (first,) = [move for move in moves if move is not None]
    ends = [name for name in names(await store.rows("event_list", {"run_id": run["id"]})) if name != "fl.federation.created"]
    assert ends == [f"fl.federation.{first['status']}"]


async def test_a_failed_run_carries_its_cause_and_its_attempt_ends_with_it(store: Store, run: Row, node: Row) -> None:
    await store.note_attempt("77", "ServerApp died: killed by signal 9 (SIGKILL)")
    await store.note_attempt("77", "a later thought")
    await store.move_run(run["id"], "running")
    cause = {
        "node_id": node["flower_node_id"],
        "node_name": "Site A",
        "type": "KeyError",
        "message": "'boom'",
        "traceback": "Traceback …",
        "last_lines": ["a patient's row"],
    }
    failed = await store.move_run(run["id"], "failed", cause)
    assert failed is not None
    assert failed["cause"] == cause
    assert failed["reason"] == "ServerApp died: killed by signal 9 (SIGKILL)"
    assert failed["seconds"] >= 0
    (attempt,) = await store.rows("attempt_list")
    assert (attempt["status"], attempt["ended_at"]) == ("failed", failed["ended_at"])
    (event,) = failed["events"]
    assert event["name"] == "fl.federation.failed"
    assert event["data"] == {
        "attempt": "77",
        "cause": {"node_id": node["flower_node_id"], "type": "KeyError"},
    }


async def test_a_note_on_an_unknown_attempt_is_refused(store: Store) -> None:
    with pytest.raises(NoSuchRow):
        await store.note_attempt("77", "stop asked")


async def test_runs_are_listed_newest_first_page_by_page(store: Store, project: Row) -> None:
    begun = [(await begin(store, project, "shell"))["id"] for _ in range(5)]
    listed: list[str] = []
    after = None
    while page := await store.rows("run_list", {"project_id": project["id"]}, after, 2):
        listed += [row["id"] for row in page]
        after = page[-1]["key"]
    assert listed == begun[::-1]


async def test_a_reader_by_key_misses_no_event_of_eight_writers(store: Store, project: Row) -> None:
    async def write() -> None:
        for _ in range(10):
            run = await begin(store, project, "shell")
            await store.move_run(run["id"], "failed")

    async def follow() -> list[int]:
        seen: list[int] = []
        while len(seen) < 160:
            seen += [row["key"] for row in await store.rows("event_list", None, seen[-1] if seen else 0, 1000)]
        return seen

    async with asyncio.timeout(60):
        following = asyncio.create_task(follow())
        await asyncio.gather(*(write() for _ in range(8)))
        seen = await following
    assert seen == [row["key"] for row in await store.rows("event_list", limit=1000)]


async def test_an_attempt_is_lost_while_its_run_goes_on(store: Store, run: Row) -> None:
    await store.move_run(run["id"], "running")
    lost = await store.lose_attempt("77", "ServerApp died: killed by signal 9 (SIGKILL)")
    assert (lost["status"], lost["reason"]) == ("lost", "ServerApp died: killed by signal 9 (SIGKILL)")
    assert await store.lose_attempt("77", "a later thought") == lost
    (shown,) = await store.rows("run_list")
    assert (shown["status"], shown["ended_at"], shown["flower_run_id"]) == ("running", None, "77")
    await store.begin_attempt(run["id"], "78", "9")
    (shown,) = await store.rows("run_list")
    assert (shown["status"], shown["flower_run_id"], shown["attempts"]) == ("running", "78", 2)


async def test_an_attempt_that_ended_with_its_run_is_not_lost(store: Store, run: Row) -> None:
    await store.move_run(run["id"], "failed")
    assert (await store.lose_attempt("77", "too late"))["status"] == "failed"


@pytest.mark.parametrize("end", ["failed", "stopped"])
async def test_a_run_that_has_ended_goes_on_by_hand(store: Store, run: Row, end: str) -> None:
    await store.move_run(run["id"], end, {"type": "KeyError"} if end == "failed" else None)
    again = await store.move_run(run["id"], "starting", expected=["failed", "stopped"])
    assert again is not None
    assert (again["status"], again["cause"], again["ended_at"]) == ("starting", None, None)
    assert names(again["events"]) == ["fl.federation.resumed"]
    (attempt,) = await store.rows("attempt_list", {"run_id": run["id"]})
    assert (attempt["status"], attempt["is_reopened"]) == (end, True)
    await store.begin_attempt(run["id"], "78", "9")
    assert await store.move_run(run["id"], "completed") is not None
    events = names(await store.rows("event_list", {"run_id": run["id"]}))
    assert events[-3:] == [f"fl.federation.{end}", "fl.federation.resumed", "fl.federation.completed"]


async def test_a_run_goes_on_by_hand_only_while_no_other_is_active(store: Store, project: Row, run: Row) -> None:
    await store.move_run(run["id"], "stopped")
    other = await begin(store, project)
    with pytest.raises(ActiveRunExists) as refused:
        await store.move_run(run["id"], "starting")
    assert refused.value.run_id == other["id"]


async def test_the_late_attempt_of_a_stopped_run_does_not_start_it_again(store: Store, run: Row) -> None:
    await store.move_run(run["id"], "stopped")
    assert (await store.begin_attempt(run["id"], "78", "9"))["run_status"] == "stopped"
