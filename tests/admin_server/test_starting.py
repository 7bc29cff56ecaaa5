"""Bad input to a start is a precise problem, and nothing has happened."""

import json
from pathlib import Path
from typing import Any

import pytest
from admin_server.settings import Settings

from tests.admin_server.admin_app import Server, write_app

LIMITS = "[tool.espalier.run-config]\nname = { choices = ['x', 'y'] }\nnum-rounds = { at-least = 1 }\n"


@pytest.fixture
def app(settings: Settings) -> Path:
    return write_app(settings.apps_dir / "small", more=LIMITS)


async def refused(server: Server, status: int, slug: str, **body: Any) -> dict[str, Any]:
    answer = await server.admin.post("/runs/start", json=body)
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["type"].rpartition("#")[2]) == (status, slug), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await server.admin.get("/runs")).json()["items"] == [], "a refused start left a row"
    return problem


BAD_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"rounds": 3}, "rounds"),
    ({"num-rounds": "three"}, "num-rounds"),
    ({"num-rounds": 2.5}, "num-rounds"),
    ({"num-rounds": 0}, "num-rounds"),
    ({"lr": None}, "lr"),
    ({"name": "z"}, "name"),
    ({"fast": 1}, "fast"),
]


async def test_a_run_config_that_does_not_fit_names_its_key(server: Server, app: Path) -> None:
    for config, key in BAD_CONFIGS:
        problem = await refused(server, 422, "run-config-invalid", app="small", run_config=config)
        assert problem["key"] == key
        assert key in problem["detail"]
    args = ["--run-config", "num-rounds='x'"]
    problem = await refused(server, 422, "run-config-invalid", app="small", extra_args=args)
    assert problem["key"] == "num-rounds"
    # What fits gets as far as the SuperLink, which is not there.
    await refused(
        server, 409, "superlink-not-running", app="small", run_config={"num-rounds": 1}, extra_args=["--run-config=lr=1"]
    )


async def test_the_first_extra_argument_that_is_not_allowed_is_named(server: Server, app: Path) -> None:
    args = ["--run-config=lr=0.5", "--insecure", "--stream"]
    problem = await refused(server, 422, "argument-refused", app="small", extra_args=args)
    assert problem["argument"] == "--insecure"


@pytest.mark.parametrize(
    ("app_name", "status", "slug"),
    [
        ("missing", 404, "app-not-found"),
        ("a" * 64, 404, "app-not-found"),
        ("../home", 422, "app-invalid"),
        ("/etc", 422, "app-invalid"),
        (".", 422, "app-invalid"),
        ("empty", 422, "app-invalid"),
        ("", 422, "invalid"),
        ("a" * 300, 422, "app-invalid"),
        ("\x07", 422, "app-invalid"),
    ],
)
async def test_an_app_that_cannot_be_had_is_refused(
    server: Server, settings: Settings, app_name: str, status: int, slug: str
) -> None:
    (settings.apps_dir / "empty").mkdir()
    await refused(server, status, slug, app=app_name)


ODD_BODIES: list[dict[str, Any]] = [
    {"run_config": {"\ud800": 1}},
    {"extra_args": ["--\ud800"]},
    {"extra_args": ["--run-config", "num-rounds=" + "9" * 5000]},
    {"extra_args": ["--run-config", "num-rounds=" + "[" * 5000]},
]


@pytest.mark.parametrize("body", ODD_BODIES)
async def test_odd_text_is_refused_and_told_in_ascii(server: Server, app: Path, body: dict[str, Any]) -> None:
    answer = await server.admin.post(
        "/runs/start", content=json.dumps({"app": "small", **body}), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422, answer.text
    assert answer.content.isascii()


async def test_a_folder_of_runs_that_cannot_be_written_is_told_before_anything_starts(server: Server, app: Path) -> None:
    (server.home / "runs").rmdir() if (server.home / "runs").is_dir() else None
    (server.home / "runs").write_text("a file in its place")
    problem = await refused(server, 503, "runs-unwritable", app="small")
    assert problem["path"] == str(server.home / "runs")


async def test_a_link_out_of_apps_dir_is_refused(server: Server, settings: Settings, tmp_path: Path) -> None:
    outside = write_app(tmp_path / "outside")
    (settings.apps_dir / "link").symlink_to(outside)
    problem = await refused(server, 422, "app-invalid", app="link")
    assert "outside APPS_DIR" in problem["detail"]


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("server.py", "app = 1 +", "invalid syntax"),
        ("pyproject.toml", "[project]\nname = 'x'", "version"),
        ("pyproject.toml", "not toml", "pyproject.toml"),
    ],
)
async def test_an_app_that_flower_refuses_tells_flowers_words(
    server: Server, settings: Settings, file: str, text: str, told: str
) -> None:
    folder = write_app(settings.apps_dir / "broken")
    (folder / file).write_text(text)
    problem = await refused(server, 422, "app-invalid", app="broken")
    assert told in problem["detail"]


async def test_a_second_app_is_not_taken_for_the_first(server: Server, settings: Settings) -> None:
    """Flower's check in one process kept the first app's modules."""
    write_app(settings.apps_dir / "one")
    (write_app(settings.apps_dir / "two") / "server.py").write_text("x = 1")
    assert (await server.admin.get("/apps/one/config")).status_code == 200
    assert "Unable to find attribute" in (await server.admin.get("/apps/two/config")).json()["detail"]


async def test_an_app_is_built_anew_when_a_file_has_changed(server: Server, settings: Settings) -> None:
    folder = write_app(settings.apps_dir / "small")
    first = (await server.admin.get("/apps/small/config")).json()
    assert first["config"] == {"num-rounds": 3, "lr": 0.1, "name": "x", "fast": False}
    assert (server.home / "apps" / f"{first['fab_hash']}.fab").is_file()
    text = (folder / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(text.replace("num-rounds = 3", "num-rounds = 30"))
    second = (await server.admin.get("/apps/small/config")).json()
    assert second["config"]["num-rounds"] == 30
    assert second["fab_hash"] != first["fab_hash"]


async def test_an_uploaded_fab_is_an_app_by_its_hash(server: Server, app: Path) -> None:
    fab_hash = (await server.admin.get("/apps/small/config")).json()["fab_hash"]
    content = (server.home / "apps" / f"{fab_hash}.fab").read_bytes()
    made = (await server.admin.post("/apps", content=content)).json()
    assert made == {"app": fab_hash, "fab_hash": fab_hash}
    assert (await server.admin.get(f"/apps/{fab_hash}/config")).json()["fab_id"] == "lab/small"


async def test_what_is_no_fab_is_refused_and_not_kept(server: Server) -> None:
    answer = await server.admin.post("/apps", content=b"no zip")
    assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (422, "app-invalid")
    assert list((server.home / "apps").iterdir()) == []


async def test_stopping_without_a_run_or_an_unknown_one_is_told(server: Server) -> None:
    assert (await server.admin.post("/runs/stop")).json()["type"].endswith("#no-active-run")
    assert (await server.admin.post("/runs/123/stop")).json()["type"].endswith("#run-not-found")
    assert (await server.admin.post("/runs/stop", json={"run_id": "123"})).status_code == 404
