"""Models over REST: promotion, versions, going back, download, lineage; on this machine's disk."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from admin_server.app import create_app
from admin_server.settings import Settings

from tests.admin_server.admin_app import Server, client_of
from tests.admin_server.kept_models import KeptRun, sha256

WEIGHTS = bytes(range(256)) * 9000  # more than two pieces


@pytest.fixture
async def run(server: Server) -> KeptRun:
    return await KeptRun(server.store, server.project_id, server.home).begin("4", "5")


async def promote(server: Server, artifact: dict[str, Any], why: str = "it is good") -> httpx.Response:
    return await server.admin.post("/models", json={"artifact_id": artifact["id"], "why": why})


def copies(server: Server) -> list[Path]:
    return [path for path in (server.home / "models").rglob("*") if path.is_file()]


async def versions(server: Server) -> list[int]:
    return [row["version"] for row in (await server.admin.get("/models")).json()["items"]]


async def test_a_runs_final_model_becomes_version_one(server: Server, run: KeptRun) -> None:
    artifact = await run.keep(WEIGHTS)
    answer = await server.admin.post("/models", json={"run_id": run.id, "why": "first of all"})
    assert (answer.status_code, answer.headers["location"]) == (201, "/models/1")
    model = answer.json()
    assert (model["version"], model["is_latest"], model["promoted_by"], model["why"]) == (1, True, "admin", "first of all")
    assert (model["artifact_id"], model["sha256"], model["size_bytes"]) == (artifact["id"], sha256(WEIGHTS), len(WEIGHTS))
    assert (await server.admin.get("/models")).json()["items"] == [model]
    (event,) = (await server.admin.get(f"/runs/{run.id}/events?limit=1000")).json()["items"][-1:]
    assert (event["name"], event["data"]["version"], event["data"]["by"]) == ("fl.artifact.promoted", 1, "admin")
    (line,) = (await server.admin.get("/audit")).json()["items"]
    assert (line["actor"], line["action"], line["subject"], line["facts"]["why"]) == (
        "admin:admin", "model.make", "1", "first of all",
    )  # fmt: skip


async def test_of_a_run_its_best_can_be_promoted_by_any_of_its_ids(server: Server, run: KeptRun) -> None:
    await run.keep(b"final")
    older = await run.keep(b"better", "best_0001", "best")
    await run.keep(b"best", "best_0002", "best")
    await run.let_go(older)
    answer = await server.admin.post("/models", json={"run_id": "77", "role": "best", "why": "best"})
    assert answer.json()["sha256"] == sha256(b"best")


async def test_a_version_is_downloaded_with_its_sha256_as_etag(server: Server, run: KeptRun) -> None:
    await promote(server, await run.keep(WEIGHTS))
    for which in ("1", "latest"):
        answer = await server.admin.get(f"/models/{which}")
        assert (answer.status_code, answer.content) == (200, WEIGHTS)
        assert answer.headers["etag"] == f'"{sha256(WEIGHTS)}"'
        assert answer.headers["content-location"] == "/models/1"
        assert answer.headers["content-length"] == str(len(WEIGHTS))
        assert answer.headers["content-disposition"] == 'attachment; filename="fed-project-1.safetensors"'


@pytest.mark.parametrize("given", ['"{}"', 'W/"{}"', '"other", "{}"', "*"])
async def test_who_has_it_already_gets_no_body(server: Server, run: KeptRun, given: str) -> None:
    await promote(server, await run.keep(WEIGHTS))
    etag = f'"{sha256(WEIGHTS)}"'
    answer = await server.admin.get("/models/1", headers={"If-None-Match": given.replace("{}", sha256(WEIGHTS))})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert (await server.admin.get("/models/1", headers={"If-None-Match": '"other"'})).status_code == 200


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [("bytes=0-0", 0, 1), ("bytes=1500000-", 1_500_000, None), ("bytes=-5", -5, None), ("bytes=5-99999999999", 5, None)],
)
async def test_a_download_goes_on_where_it_broke(server: Server, run: KeptRun, asked: str, begin: int, end: int | None) -> None:
    await promote(server, await run.keep(WEIGHTS))
    answer = await server.admin.get("/models/1", headers={"Range": asked, "If-Range": f'"{sha256(WEIGHTS)}"'})
    assert (answer.status_code, answer.content) == (206, WEIGHTS[begin:end])
    first = begin % len(WEIGHTS)
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(WEIGHTS)}"


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=5-", "If-Range": '"another version"'},
        {"Range": "lines=1-2"},
        {"Range": "bytes=0-1,3-4"},
        {"Range": "bytes=9-5"},
    ],
)
async def test_a_range_that_cannot_be_meant_gets_the_whole(server: Server, run: KeptRun, headers: dict[str, str]) -> None:
    await promote(server, await run.keep(b"weights"))
    answer = await server.admin.get("/models/1", headers=headers)
    assert (answer.status_code, answer.content) == (200, b"weights")


async def test_a_range_behind_the_end_is_refused(server: Server, run: KeptRun) -> None:
    await promote(server, await run.keep(b"weights"))
    answer = await server.admin.get("/models/1", headers={"Range": "bytes=7-"})
    assert (answer.status_code, answer.json()["size_bytes"]) == (416, 7)


async def test_latest_is_what_was_promoted_last_and_going_back_is_written_down(server: Server, run: KeptRun) -> None:
    assert (await server.admin.get("/models/latest")).status_code == 404
    for content in (b"one", b"two"):
        await promote(server, await run.keep(content))
    assert (await server.admin.get("/models/latest")).content == b"two"
    back = await server.admin.post("/models/1/promote", json={"why": "two is worse at night"})
    assert (back.status_code, back.json()["version"], back.json()["is_latest"]) == (200, 1, True)
    assert (await server.admin.get("/models/latest")).content == b"one"
    assert await versions(server) == [2, 1]
    promotions = (await server.admin.get("/models/promotions")).json()["items"]
    assert [(row["version"], row["from_version"], row["promoted_by"], row["why"]) for row in promotions] == [
        (1, 2, "admin", "two is worse at night"), (2, 1, "admin", "it is good"), (1, None, "admin", "it is good"),
    ]  # fmt: skip
    assert (await promote(server, await run.keep(b"three"))).json()["version"] == 3


async def test_lineage_leads_from_a_version_to_run_code_nodes_and_datasets(server: Server) -> None:
    node_id, _ = await server.node("north")
    (node,) = await server.store.rows("node_list", {"id": node_id})
    inventory = {"hardware": {}, "datasets": [{"id": "mammograms-2025"}]}
    await server.store.accept_reports(node_id, "spool", [{"seq": 1, "kind": "inventory", "at": None, "data": inventory}])
    run = await KeptRun(server.store, server.project_id, server.home).begin(node["flower_node_id"])
    await promote(server, await run.keep(WEIGHTS))
    lineage = (await server.admin.get("/models/latest/lineage")).json()
    assert (lineage["version"], lineage["run_id"], lineage["attempt"], lineage["round"]) == (1, run.id, "77", 1)
    assert (lineage["facts"]["fab_hash"], lineage["facts"]["app"]) == ("f" * 64, "flower-app")
    assert lineage["facts"]["config"] == {"lr": 0.1, "workload": "digits"}
    assert (lineage["facts"]["parents"], lineage["parent_version"]) == (["a" * 64], None)
    (source,) = lineage["sources"]
    assert (source["node_id"], source["node_name"], source["updates"], source["num_examples"]) == (node_id, "north", 1, 8)
    assert source["datasets"] == ["mammograms-2025"]
    assert [row["why"] for row in lineage["promotions"]] == ["it is good"]


async def test_what_happens_in_the_runs_directory_no_longer_reaches_a_model(server: Server, run: KeptRun) -> None:
    artifact = await run.keep(WEIGHTS, "best_0001", "best")
    await promote(server, artifact)
    with (run.folder / artifact["uri"]).open("r+b") as file:
        file.write(b"changed in place")
    assert (await server.admin.get("/models/1")).content == WEIGHTS
    await run.let_go(artifact)
    assert (await server.admin.get("/models/1")).content == WEIGHTS
    assert (await server.admin.post("/models/1/promote", json={"why": "still there"})).status_code == 200


async def test_the_same_model_promoted_twice_is_two_versions_and_one_file(server: Server, run: KeptRun) -> None:
    artifact = await run.keep(WEIGHTS)
    assert [(await promote(server, artifact)).json()["version"] for _ in range(2)] == [1, 2]
    (copy,) = copies(server)
    assert (copy.name, copy.stat().st_mode & 0o777) == (f"{sha256(WEIGHTS)}.safetensors", 0o400)


async def test_eight_promotions_at_once_are_eight_versions_and_a_restart_goes_on(
    server: Server, run: KeptRun, settings: Settings
) -> None:
    artifact = await run.keep(WEIGHTS)
    answers = await asyncio.gather(*(promote(server, artifact, str(number)) for number in range(8)))
    assert sorted(answer.json()["version"] for answer in answers) == list(range(1, 9))
    assert len(copies(server)) == 1
    again = create_app(settings)
    async with again.router.lifespan_context(again) as state, client_of(again, dict(state or {}), None) as client:
        client.headers.update(server.admin.headers)
        answer = await client.post("/models", json={"artifact_id": artifact["id"], "why": "after the restart"})
        assert answer.json()["version"] == 9


async def test_a_damaged_file_is_told_and_promotes_nothing(server: Server, run: KeptRun) -> None:
    artifact = await run.keep(WEIGHTS)
    (run.folder / artifact["uri"]).write_bytes(WEIGHTS[:-1] + b"x")
    answer = await promote(server, artifact)
    assert (answer.status_code, answer.json()["title"]) == (409, "Artifact damaged")
    assert await versions(server) == []
    assert copies(server) == []


async def test_a_file_that_is_gone_is_told_and_promotes_nothing(server: Server, run: KeptRun) -> None:
    removed = await run.keep(b"one", "round_0001", "checkpoint")
    await run.let_go(removed)
    lost = await run.keep(b"two")
    (run.folder / lost["uri"]).unlink()
    for artifact, why in ((removed, "retention has removed it"), (lost, "there is no file")):
        row = await server.store.rows("artifact_list", {"id": artifact["id"]})
        answer = await promote(server, row[0])
        assert (answer.status_code, answer.json()["title"]) == (410, "Artifact gone")
        assert why in answer.json()["detail"]
    assert await versions(server) == []


async def test_a_damaged_copy_is_promoted_no_more_and_never_downloaded_whole(server: Server, run: KeptRun) -> None:
    artifact = await run.keep(WEIGHTS)
    await promote(server, artifact)
    (copy,) = copies(server)
    copy.chmod(0o600)
    copy.write_bytes(WEIGHTS[:-1] + b"x")
    answer = await server.admin.post("/models/1/promote", json={"why": "again"})
    assert (answer.status_code, answer.json()["title"]) == (409, "Artifact damaged")
    assert len((await server.admin.get("/models/promotions")).json()["items"]) == 1
    broken = await server.admin.get("/models/1")
    assert len(broken.content) < int(broken.headers["content-length"]) == len(WEIGHTS)
    await promote(server, artifact)  # the run's own file is good, and mends the copy
    assert (await server.admin.get("/models/1")).content == WEIGHTS


async def test_a_copy_that_is_gone_is_told(server: Server, run: KeptRun) -> None:
    await promote(server, await run.keep(WEIGHTS))
    copies(server)[0].unlink()
    answer = await server.admin.get("/models/1")
    assert (answer.status_code, answer.json()["title"]) == (410, "Artifact gone")
    assert (await server.admin.post("/models/1/promote", json={"why": "again"})).status_code == 410


@pytest.mark.parametrize(
    "body",
    [
        {"why": "neither"},
        {"artifact_id": "00000000-0000-4000-8000-000000000000", "run_id": "1", "why": "both"},
        {"artifact_id": "00000000-0000-4000-8000-000000000000", "role": "best", "why": "role without run"},
        {"artifact_id": "7", "why": "no id"},
        {"run_id": "1", "role": "checkpoint", "why": "no such role"},
        {"run_id": "1", "why": " "},
        {"run_id": "1"},
    ],
)
async def test_a_promotion_says_what_and_why(server: Server, body: dict[str, str]) -> None:
    assert (await server.admin.post("/models", json=body)).status_code == 422


async def test_what_is_not_there_is_not_found(server: Server, run: KeptRun) -> None:
    asked = {"artifact_id": "00000000-0000-4000-8000-000000000000", "why": "x"}
    for answer in (
        await server.admin.post("/models", json=asked),
        await server.admin.post("/models", json={"run_id": run.id, "role": "best", "why": "x"}),
        await server.admin.post("/models", json={"run_id": "12345", "why": "x"}),
        await server.admin.get("/models/7"),
        await server.admin.get("/models/latest/lineage"),
        await server.admin.post("/models/7/promote", json={"why": "x"}),
    ):
        assert answer.status_code == 404
    for address in ("/models/0", "/models/newest", "/models/01"):
        assert (await server.admin.get(address)).status_code == 422


@pytest.fixture
async def reader(settings: Settings, server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A second server on the same project, which only reads."""
    home = settings.espalier_home.with_name("second")
    other = settings.model_copy(update={"espalier_home": home})
    app = create_app(other)
    async with app.router.lifespan_context(app) as state:
        token = (home / "admin.token").read_text().strip()
        async with client_of(app, dict(state or {}), token) as client:
            yield client


async def test_a_server_that_only_reads_promotes_nothing(server: Server, run: KeptRun, reader: httpx.AsyncClient) -> None:
    artifact = await run.keep(WEIGHTS)
    await promote(server, artifact)
    for address, body in (("/models", {"artifact_id": artifact["id"], "why": "x"}), ("/models/1/promote", {"why": "x"})):
        answer = await reader.post(address, json=body)
        assert (answer.status_code, answer.json()["title"]) == (503, "Read-only")
    assert [row["version"] for row in (await reader.get("/models")).json()["items"]] == [1]
