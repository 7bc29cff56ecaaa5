"""Versions, promotions, lineage, and the copies of artifacts in a store."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from db.door import Row
from db.errors import BadValue, NoSuchRow, Stale
from db.store import Store
from tests.db.conftest import BIG, sha

FINAL = "models/final.safetensors"


@pytest.fixture
async def artifact(store: Store, run: Row, node: Row, journal: Any) -> Row:
    """Keep a model of round 2 of a run in which two nodes counted."""
    journal.opened(3).whole_round(1, BIG, "5").whole_round(2, BIG).artifact(round=2, parents=[sha("round 2")])
    await store.apply_journal(run["id"], journal.records, 4000)
    (artifact,) = await store.rows("artifact_list")
    return artifact


async def promote(store: Store, artifact: Row, why: str = "it is good") -> Row:
    return await store.add_model(
        artifact["project_id"], artifact["id"], artifact["sha256"], f"models/{artifact['sha256']}", "admin", why
    )


async def latest(store: Store) -> list[int]:
    return [row["version"] for row in await store.rows("model_list", {"is_latest": True})]


async def test_a_promoted_artifact_is_version_one_and_the_latest(store: Store, run: Row, artifact: Row) -> None:
    model = await promote(store, artifact)
    assert (model["version"], model["is_latest"], model["promoted_by"], model["why"]) == (1, True, "admin", "it is good")
    assert (model["sha256"], model["size_bytes"], model["round"], model["run_id"]) == (sha(FINAL), 40, 2, run["id"])
    (event,) = model["events"]
    assert (event["name"], event["run_id"], event["round"]) == ("fl.artifact.promoted", run["id"], 2)
    assert event["data"] == {
        "version": 1, "from_version": None, "artifact_id": artifact["id"], "sha256": sha(FINAL),
        "by": "admin", "why": "it is good",
    }  # fmt: skip
    assert await store.rows("model_list") == [{name: value for name, value in model.items() if name != "events"}]


async def test_a_version_knows_its_run_its_code_and_its_config(store: Store, artifact: Row) -> None:
    model = await promote(store, artifact)
    assert (model["attempt"], model["parent_version"]) == ("77", None)
    assert model["facts"] == {
        "app": "flower-app", "fab_hash": sha("fab"), "config": {"lr": 0.1}, "workload": "digits", "strategy": "fedavg",
        "name": "final", "role": "final", "score": None, "format": "safetensors", "parents": [sha("round 2")],
    }  # fmt: skip


async def test_a_version_knows_whose_updates_and_datasets_are_in_it(
    store: Store, run: Row, node: Row, artifact: Row, journal: Any
) -> None:
    report = {"seq": 1, "kind": "inventory", "at": None, "data": {"hardware": {}, "datasets": [{"id": "ct-1"}, {"id": "ct-2"}]}}
    await store.accept_reports(node["id"], "spool", [report])
    journal.whole_round(3, BIG)  # after the model: not in it
    await store.apply_journal(run["id"], journal.records, 5000)
    model = await promote(store, artifact)
    other, ours = await store.rows("model_source_list", {"model_id": model["id"]})
    assert (ours["node_id"], ours["node_name"], ours["flower_node_id"], ours["version"]) == (node["id"], "Site site-a", BIG, 1)
    assert (ours["updates"], ours["first_round"], ours["last_round"]) == (2, 1, 2)
    assert (ours["num_examples"], ours["round_examples"], ours["datasets"]) == (20, 10, ["ct-1", "ct-2"])
    assert (other["node_id"], other["flower_node_id"], other["updates"], other["round_examples"]) == (None, "5", 1, None)
    assert other["datasets"] == []
    await store.accept_reports(node["id"], "spool", [{**report, "seq": 2, "data": {"hardware": {}, "datasets": []}}])
    assert (await store.rows("model_source_list"))[1]["datasets"] == ["ct-1", "ct-2"]  # as it was known then


async def test_a_version_knows_the_version_that_its_run_started_from(
    store: Store, project: Row, run: Row, artifact: Row, journal: Any
) -> None:
    await promote(store, artifact)
    again = await promote(store, artifact)
    assert again["parent_version"] is None
    other = await store.begin_run(project["id"], "flower-app", sha("fab"), {}, None, "shell")
    await store.begin_attempt(other["id"], "88", "900")
    journal.records.clear()
    journal.opened(3, initial_model=artifact["sha256"]).whole_round(1, BIG).artifact(round=1)
    await store.apply_journal(other["id"], [line | {"attempt": "88"} for line in journal.records], 4000)
    (child,) = await store.rows("artifact_list", {"run_id": other["id"]})
    assert (await promote(store, child))["parent_version"] == again["version"], "the newest of those with the same bytes"


async def test_eight_promotions_at_once_are_eight_versions(store: Store, artifact: Row) -> None:
    models = await asyncio.gather(*(promote(store, artifact, str(number)) for number in range(8)))
    assert sorted(model["version"] for model in models) == list(range(1, 9))
    assert await latest(store) == [8]
    promotions = await store.rows("promotion_list")
    assert [(row["version"], row["from_version"]) for row in promotions] == [(n, n - 1 or None) for n in range(8, 0, -1)]
    told = [event["data"]["version"] for event in await store.rows("event_list", {"name": "fl.artifact.promoted"})]
    assert told == list(range(1, 9))


async def test_going_back_is_a_promotion_of_its_own_and_takes_nothing_away(store: Store, project: Row, artifact: Row) -> None:
    for why in ("first", "second"):
        await promote(store, artifact, why)
    back = await store.promote_model(project["id"], 1, "chief", "2 is worse at night")
    assert (back["version"], back["is_latest"], back["why"]) == (1, True, "first")
    assert back["events"][0]["data"] | {"artifact_id": "", "sha256": ""} == {
        "version": 1, "from_version": 2, "artifact_id": "", "sha256": "", "by": "chief", "why": "2 is worse at night",
    }  # fmt: skip
    assert [row["version"] for row in await store.rows("model_list")] == [2, 1]
    newest, *_ = await store.rows("promotion_list")
    assert (newest["version"], newest["from_version"], newest["promoted_by"]) == (1, 2, "chief")
    assert (await promote(store, artifact))["version"] == 3


async def test_versions_are_each_projects_own(store: Store, artifact: Row, new_journal: Callable[[str], Any]) -> None:
    await promote(store, artifact)
    other = await store.open_project("other", "Other", "coordinator", "C")
    run = await store.begin_run(other["id"], "app", None, {}, None, "rest")
    await store.apply_journal(run["id"], new_journal("88").opened().whole_round(1, "9").artifact().records, 1)
    (theirs,) = await store.rows("artifact_list", {"project_id": other["id"]})
    with pytest.raises(NoSuchRow):
        await store.add_model(artifact["project_id"], theirs["id"], theirs["sha256"], "models/x", "admin", "no")
    assert (await promote(store, theirs))["version"] == 1
    assert await latest(store) == [1, 1]


async def test_what_is_not_there_is_not_promoted(store: Store, project: Row, artifact: Row) -> None:
    with pytest.raises(NoSuchRow):
        await store.add_model(project["id"], project["id"], sha("x"), "models/x", "admin", "no")
    with pytest.raises(Stale):
        await store.add_model(project["id"], artifact["id"], sha("other bytes"), "models/x", "admin", "no")
    with pytest.raises(NoSuchRow):
        await store.promote_model(project["id"], 1, "admin", "no")
    assert await store.rows("model_list") == await store.rows("promotion_list") == []


async def test_a_replay_leaves_models_and_their_lineage_as_they_were(store: Store, run: Row, artifact: Row, journal: Any) -> None:
    model = await promote(store, artifact)
    before = await store.rows("model_source_list")
    await store.forget_projection(run["id"])
    assert [row["id"] for row in await store.rows("artifact_list")] == [artifact["id"]]
    await store.apply_journal(run["id"], journal.records, 4000)
    assert await store.rows("model_list") == [{name: value for name, value in model.items() if name != "events"}]
    assert await store.rows("model_source_list") == before
    assert len(await store.rows("event_list", {"name": "fl.artifact.promoted"})) == 1


async def test_an_artifact_carries_its_score_and_when_it_went(store: Store, run: Row, journal: Any) -> None:
    score = {"metric": "accuracy", "value": 0.9, "by": "server"}
    journal.opened().whole_round(1, BIG).artifact("a", role="best", score=score).artifact("b", role="checkpoint").removed("b")
    answer = await store.apply_journal(run["id"], journal.records, 1)
    assert answer["refused"] == 0
    gone, best = await store.rows("artifact_list")
    assert (best["score"], best["removed_at"], best["to_do"]) == (score, None, "store")
    assert (gone["score"], gone["removed_at"].isoformat(), gone["to_do"]) == (None, "2026-11-22T08:00:07+00:00", None)


async def test_a_removal_of_what_was_never_kept_is_refused(store: Store, run: Row, journal: Any) -> None:
    answer = await store.apply_journal(run["id"], journal.opened().removed("a").records, 1)
    assert answer["refused"] == 1


async def test_the_copy_of_an_artifact_is_begun_then_stored_then_gone(
    store: Store, run: Row, artifact: Row, journal: Any
) -> None:
    noted: list[Any] = []

    async def note(state: str, uri: str | None = None) -> None:
        row = await store.note_artifact(artifact["id"], artifact["sha256"], state, uri)
        assert row is not None
        noted.append((row["stored_uri"], row["stored_at"] is not None, row["to_do"]))

    await note("storing", "s3://a/b")
    await note("stored", "s3://a/b")
    await store.apply_journal(run["id"], journal.add("artifact.removed", **removal(artifact)).records, 5000)
    assert [row["to_do"] for row in await store.rows("artifact_list")] == ["remove"]
    await note("gone")
    assert noted == [("s3://a/b", False, "store"), ("s3://a/b", True, None), (None, False, None)]


def removal(artifact: Row) -> Row:
    return {"path": artifact["uri"], **{name: artifact[name] for name in ("name", "role", "sha256", "round")}}


async def test_other_bytes_under_the_same_name_have_no_copy_yet(store: Store, run: Row, artifact: Row, journal: Any) -> None:
    await store.note_artifact(artifact["id"], artifact["sha256"], "stored", "s3://a/b")
    await store.apply_journal(run["id"], journal.artifact(sha256=sha("longer"), round=3).records, 5000)
    (row,) = await store.rows("artifact_list")
    assert (row["sha256"], row["stored_uri"], row["stored_at"], row["to_do"]) == (sha("longer"), "s3://a/b", None, "store")
    assert await store.note_artifact(artifact["id"], artifact["sha256"], "stored", "s3://a/b") is None
    assert (await store.rows("artifact_list"))[0]["stored_at"] is None


async def test_a_copy_that_fails_is_warned_of_once(store: Store, run: Row, artifact: Row) -> None:
    for _ in range(3):
        await store.note_artifact(artifact["id"], artifact["sha256"], "not stored", error="NoSuchBucket")
    (event,) = await store.rows("event_list", {"name": "fl.client.warned"})
    assert (event["run_id"], event["round"]) == (run["id"], 2)
    assert event["data"] == {
        "what": "artifact.not_stored", "artifact_id": artifact["id"], "name": "final", "type": "NoSuchBucket",
    }  # fmt: skip
    assert (await store.rows("run_list"))[0]["status"] == "running"


async def test_a_state_that_no_copy_has_is_a_bad_value(store: Store, artifact: Row) -> None:
    with pytest.raises(BadValue):
        await store.note_artifact(artifact["id"], artifact["sha256"], "lost")
    assert await store.note_artifact(artifact["project_id"], artifact["sha256"], "gone") is None
