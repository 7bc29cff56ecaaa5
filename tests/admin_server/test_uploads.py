"""Copies of artifacts in the bucket: made, removed, and made again after any crash; a real S3 server, a real database."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from admin_server.app import create_app
from admin_server.artifacts.stores import Stores
from admin_server.artifacts.uploads import Uploads
from admin_server.settings import Settings

from db.store import Store
from tests.admin_server.admin_app import Server, client_of
from tests.admin_server.kept_models import KeptRun, sha256
from tests.admin_server.s3_server import BUCKET, Damaging, S3Server

WEIGHTS = b"weights" * 1000


@pytest.fixture
async def project_id(store: Store) -> str:
    return str((await store.open_project("fed-project", "P", "coordinator", "C"))["id"])


@pytest.fixture
async def run(store: Store, project_id: str, tmp_path: Path) -> KeptRun:
    return await KeptRun(store, project_id, tmp_path).begin("4")


@pytest.fixture
def uploads(store: Store, project_id: str, s3: S3Server, tmp_path: Path) -> Uploads:
    return make(store, project_id, tmp_path, s3.url)


def make(store: Store, project_id: str, home: Path, url: str) -> Uploads:
    return Uploads(store, project_id, Stores(home, f"s3://{BUCKET}/federation", url), home / "runs")


async def row_of(store: Store, artifact: dict[str, Any]) -> dict[str, Any]:
    (row,) = await store.rows("artifact_list", {"id": artifact["id"]})
    return row


async def warnings(store: Store) -> list[dict[str, Any]]:
    return [row["data"] for row in await store.rows("event_list", {"name": "fl.client.warned"})]


async def test_an_artifact_is_copied_and_its_row_says_where(store: Store, run: KeptRun, uploads: Uploads, s3: S3Server) -> None:
    artifact = await run.keep(WEIGHTS)
    assert (artifact["stored_uri"], artifact["stored_at"], artifact["to_do"]) == (None, None, "store")
    await uploads.step()
    row = await row_of(store, artifact)
    assert row["stored_uri"] == f"s3://{BUCKET}/federation/runs/{run.id}/models/final.safetensors"
    assert (row["stored_at"] is not None, row["to_do"]) == (True, None)
    (key,) = s3.objects()
    assert s3.file(key).read_bytes() == WEIGHTS


async def test_what_is_copied_is_not_copied_again(store: Store, run: KeptRun, uploads: Uploads, s3: S3Server) -> None:
    artifact = await run.keep(WEIGHTS)
    await uploads.step()
    before = await row_of(store, artifact), s3.file(s3.objects()[0]).stat().st_mtime_ns
    await uploads.step()
    assert (await row_of(store, artifact), s3.file(s3.objects()[0]).stat().st_mtime_ns) == before


async def test_other_bytes_under_the_same_name_are_copied_over_the_first(
    store: Store, run: KeptRun, uploads: Uploads, s3: S3Server
) -> None:
    await run.keep(b"after round 3")
    await uploads.step()
    artifact = await run.keep(b"after round 4")
    await uploads.step()
    assert (await row_of(store, artifact))["to_do"] is None
    (key,) = s3.objects()
    assert s3.file(key).read_bytes() == b"after round 4"


async def test_what_retention_removed_goes_from_the_bucket_too(
    store: Store, run: KeptRun, uploads: Uploads, s3: S3Server
) -> None:
    first = await run.keep(b"one", "round_0001", "checkpoint")
    await run.keep(b"two", "round_0002", "checkpoint")
    await uploads.step()
    await run.let_go(first)
    await uploads.step()
    assert [Path(key).name for key in s3.objects()] == ["round_0002.safetensors"]
    row = await row_of(store, first)
    assert (row["stored_uri"], row["to_do"], row["removed_at"] is not None) == (None, None, True)


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from admin_server.artifacts.stores import Stores
from admin_server.artifacts.uploads import Uploads
from db.postgres_door import PostgresDoor
from db.store import Store

dsn, project_id, home, bucket, url, moment = sys.argv[1:]

class Dying(Store):
    async def note_artifact(self, artifact_id, sha256, state, uri=None, error=None):
        if state == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().note_artifact(artifact_id, sha256, state, uri, error)

async def main():
    door = PostgresDoor(dsn)
    await door.open()
    await Uploads(Dying(door), project_id, Stores(Path(home), bucket, url), Path(home) / "runs").step()

asyncio.run(main())
"""


async def killed_at(moment: str, dsn: str, project_id: str, home: Path, s3: S3Server) -> None:
    """Do a step in a process of its own, which is killed before it notes this."""
    told = [dsn, project_id, str(home), f"s3://{BUCKET}/federation", s3.url, moment]
    died = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", KILLED, *told], env=dict(os.environ), timeout=60)
    assert died.returncode == -signal.SIGKILL


async def test_a_server_killed_between_upload_and_row_does_it_again_at_the_same_address(
    store: Store, run: KeptRun, uploads: Uploads, s3: S3Server, database_url: str, project_id: str, tmp_path: Path
) -> None:
    artifact = await run.keep(WEIGHTS)
    await killed_at("stored", database_url, project_id, tmp_path, s3)
    (key,) = s3.objects()
    uploaded = s3.file(key).stat().st_mtime_ns
    row = await row_of(store, artifact)
    assert (row["stored_uri"], row["stored_at"], row["to_do"]) == (f"s3://{BUCKET}/{key}", None, "store")
    await uploads.step()
    assert (await row_of(store, artifact))["to_do"] is None
    assert s3.objects() == [key]
    assert s3.file(key).stat().st_mtime_ns == uploaded  # what is there, and right, is not sent again


async def test_a_server_killed_after_its_intent_and_a_removal_meanwhile_leave_nothing_in_the_bucket(
    store: Store, run: KeptRun, uploads: Uploads, s3: S3Server, database_url: str, project_id: str, tmp_path: Path
) -> None:
    artifact = await run.keep(WEIGHTS, "round_0001", "checkpoint")
    await killed_at("stored", database_url, project_id, tmp_path, s3)
    await run.let_go(artifact)
    assert (await row_of(store, artifact))["to_do"] == "remove"
    await uploads.step()
    assert s3.objects() == []
    assert (await row_of(store, artifact))["to_do"] is None


async def test_a_removal_killed_before_its_row_is_done_again(
    store: Store, run: KeptRun, uploads: Uploads, s3: S3Server, database_url: str, project_id: str, tmp_path: Path
) -> None:
    artifact = await run.keep(WEIGHTS, "round_0001", "checkpoint")
    await uploads.step()
    await run.let_go(artifact)
    await killed_at("gone", database_url, project_id, tmp_path, s3)
    assert (s3.objects(), (await row_of(store, artifact))["to_do"]) == ([], "remove")
    await uploads.step()
    assert (await row_of(store, artifact))["to_do"] is None


async def test_an_s3_that_is_away_is_warned_of_once_and_nothing_is_lost(
    store: Store, run: KeptRun, s3: S3Server, project_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    s3.stop()
    artifacts = [await run.keep(bytes([number]), f"round_000{number}", "checkpoint") for number in (1, 2)]
    uploads = make(store, project_id, tmp_path, s3.url)
    await uploads.step()
    await uploads.step()  # too early: nobody is asked again
    (warned,) = await warnings(store)
    assert (warned["what"], warned["name"]) == ("artifact.not_stored", "round_0002")
    assert warned["type"] == "EndpointConnectionError"
    assert len([line for line in caplog.messages if "the artifact store is away" in line]) == 1
    (row,) = await store.rows("run_list", {"id": run.id})
    assert (row["status"], row["warnings"]) == ("running", 1)
    s3.start()
    await make(store, project_id, tmp_path, s3.url).step()
    assert [(await row_of(store, artifact))["to_do"] for artifact in artifacts] == [None, None]
    assert len(s3.objects()) == 2


async def test_a_missing_file_is_warned_of_and_holds_up_no_other(store: Store, run: KeptRun, uploads: Uploads) -> None:
    good = await run.keep(b"good", "round_0001", "checkpoint")
    lost = await run.keep(b"lost", "round_0002", "checkpoint")
    (run.folder / lost["uri"]).unlink()
    await uploads.step()
    assert await warnings(store) == []  # its removal may be a line that is not read yet
    for _ in range(2):
        await uploads.step()
    assert [(await row_of(store, each))["to_do"] for each in (good, lost)] == [None, "store"]
    (warned,) = await warnings(store)
    assert (warned["name"], warned["type"]) == ("round_0002", "ArtifactGone")


async def test_bytes_that_changed_on_the_way_are_never_called_stored(
    store: Store, run: KeptRun, s3: S3Server, project_id: str, tmp_path: Path
) -> None:
    artifact = await run.keep(WEIGHTS)
    async with Damaging(s3, b"weights", b"WEIGHTS") as between:
        uploads = make(store, project_id, tmp_path, between.url)
        for _ in range(2):
            await uploads.step()
    row = await row_of(store, artifact)
    assert (row["stored_at"], row["to_do"], s3.objects()) == (None, "store", [])
    (warned,) = await warnings(store)
    assert warned["type"] == "ArtifactDamaged"
    await make(store, project_id, tmp_path, s3.url).step()
    assert (await row_of(store, artifact))["to_do"] is None


async def test_without_a_bucket_there_is_nothing_to_do(store: Store, run: KeptRun, project_id: str, tmp_path: Path) -> None:
    artifact = await run.keep(WEIGHTS)
    await Uploads(store, project_id, Stores(tmp_path, None, None), tmp_path / "runs").step()
    assert await row_of(store, artifact) == artifact


@pytest.fixture
async def server(tmp_path: Path, database_url: str, s3: S3Server) -> AsyncIterator[Server]:
    """A whole server that has a bucket."""
    told: dict[str, Any] = {"espalier_home": tmp_path / "home", "database_url": database_url, "apps_dir": tmp_path}
    app = create_app(Settings(**told, artifacts_url=f"s3://{BUCKET}/federation", s3_endpoint_url=s3.url))
    async with app.router.lifespan_context(app) as state:
        token = (tmp_path / "home" / "admin.token").read_text().strip()
        async with client_of(app, dict(state or {}), token) as admin:
            yield Server(app, dict(state or {}), admin, tmp_path / "home")


async def stored(server: Server, artifact: dict[str, Any]) -> None:
    """Wait until the server's own loop has copied it."""
    async with asyncio.timeout(60):
        while (await row_of(server.store, artifact))["to_do"]:  # noqa: ASYNC110 - the server tells nobody of it
            await asyncio.sleep(0.05)


async def test_a_server_with_a_bucket_copies_by_itself_and_keeps_its_models_there(server: Server, s3: S3Server) -> None:
    run = await KeptRun(server.store, server.project_id, server.home).begin("4")
    artifact = await run.keep(WEIGHTS)
    await stored(server, artifact)
    assert (await server.admin.post("/models", json={"run_id": run.id, "why": "good"})).status_code == 201
    key = f"federation/models/fed-project/{sha256(WEIGHTS)}.safetensors"
    assert s3.file(key).read_bytes() == WEIGHTS
    (model,) = (await server.admin.get("/models")).json()["items"]
    assert model["uri"] == f"s3://{BUCKET}/{key}"
    assert (await server.admin.get("/models/1")).content == WEIGHTS
    assert (await server.admin.get("/models/1", headers={"Range": "bytes=7-13"})).content == b"weights"


async def test_a_model_is_promoted_from_its_copy_when_the_run_directory_is_lost(server: Server, s3: S3Server) -> None:
    run = await KeptRun(server.store, server.project_id, server.home).begin("4")
    artifact = await run.keep(WEIGHTS)
    await stored(server, artifact)
    (run.folder / artifact["uri"]).unlink()
    answer = await server.admin.post("/models", json={"artifact_id": artifact["id"], "why": "saved by its copy"})
    assert answer.status_code == 201
    assert (await server.admin.get("/models/latest")).content == WEIGHTS


async def test_a_bucket_that_is_away_promotes_nothing_and_says_so(server: Server, s3: S3Server) -> None:
    run = await KeptRun(server.store, server.project_id, server.home).begin("4")
    artifact = await run.keep(WEIGHTS)
    await stored(server, artifact)
    await server.admin.post("/models", json={"run_id": run.id, "why": "good"})
    s3.stop()
    for method, address, body in (
        ("POST", "/models", {"run_id": run.id, "why": "again"}),
        ("POST", "/models/1/promote", {"why": "again"}),
        ("GET", "/models/1", None),
    ):
        answer = await server.admin.request(method, address, json=body)
        assert (answer.status_code, answer.json()["title"]) == (503, "Artifact store away")
        assert answer.headers["retry-after"] == "2"
    assert len((await server.admin.get("/models/promotions")).json()["items"]) == 1
