"""Models that runs start from: found by version or artifact, and copied under the name of their content."""

import stat

import pytest
from admin_server.errors import InitialModelUnfit
from admin_server.initial_models import InitialModels

from tests.admin_server.admin_app import Server
from tests.admin_server.kept_models import KeptRun, sha256

WEIGHTS = b"a model"


@pytest.fixture
async def run(server: Server) -> KeptRun:
    return await KeptRun(server.store, server.project_id, server.home).begin("4", "5")


@pytest.fixture
def initial(server: Server) -> InitialModels:
    return InitialModels(server.state["server"].models, server.home)


async def promote(server: Server, artifact_id: str) -> None:
    answer = await server.admin.post("/models", json={"artifact_id": artifact_id, "why": "it is good"})
    assert answer.status_code == 201


async def test_an_artifact_is_copied_once_and_outlives_its_run(server: Server, run: KeptRun, initial: InitialModels) -> None:
    artifact = await run.keep(WEIGHTS)
    assert await initial.place(artifact["id"]) == sha256(WEIGHTS)
    copy = server.home / "initial-models" / f"{sha256(WEIGHTS)}.safetensors"
    assert (copy.read_bytes(), stat.S_IMODE(copy.stat().st_mode)) == (WEIGHTS, 0o400)
    await promote(server, artifact["id"])
    (server.home / "runs" / "900" / artifact["uri"]).unlink()
    for which in ("1", "latest"):
        assert await initial.place(which) == sha256(WEIGHTS)


async def test_a_version_is_taken_from_its_own_copy(server: Server, run: KeptRun, initial: InitialModels) -> None:
    artifact = await run.keep(WEIGHTS)
    await promote(server, artifact["id"])
    (server.home / "runs" / "900" / artifact["uri"]).unlink()
    assert await initial.place("1") == sha256(WEIGHTS)


async def test_a_copy_that_a_full_disk_cut_short_is_made_anew(server: Server, run: KeptRun, initial: InitialModels) -> None:
    artifact = await run.keep(WEIGHTS)
    copy = server.home / "initial-models" / f"{sha256(WEIGHTS)}.safetensors"
    copy.parent.mkdir()
    copy.write_bytes(WEIGHTS[:3])
    await initial.place(artifact["id"])
    assert copy.read_bytes() == WEIGHTS


async def test_what_is_gone_or_has_changed_is_not_taken(server: Server, run: KeptRun, initial: InitialModels) -> None:
    artifact = await run.keep(WEIGHTS)
    path = server.home / "runs" / "900" / artifact["uri"]
    path.write_bytes(b"another model")
    with pytest.raises(InitialModelUnfit, match="is not the recorded one"):
        await initial.place(artifact["id"])
    path.unlink()
    with pytest.raises(InitialModelUnfit, match="is gone: there is no file"):
        await initial.place(artifact["id"])


@pytest.mark.parametrize(
    ("which", "told"),
    [
        ("latest", "No model has been promoted yet"),
        ("7", "There is no model 7"),
        ("no-uuid", "neither a version of the model nor the id of an artifact"),
        ("00000000-0000-0000-0000-000000000000", "There is no artifact"),
        ("٣", "neither a version"),
    ],
)
async def test_what_is_not_there_is_named(initial: InitialModels, which: str, told: str) -> None:
    with pytest.raises(InitialModelUnfit, match=told):
        await initial.place(which)
