import stat
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from control_plane import problems, tokens
from control_plane.auth import Principal, require
from fastapi import Depends, FastAPI, Request

HOLDERS = {"admin-token": Principal("admin"), "node-token": Principal("node", "7")}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    problems.install(app)

    async def authenticate(request: Request, token: str) -> Principal | None:
        return next((holder for known, holder in HOLDERS.items() if tokens.same(known, token)), None)

    app.state.authenticate = authenticate

    @app.get("/reports")
    async def reports(who: Annotated[Principal, Depends(require("admin", "node"))], request: Request) -> list[str | None]:
        assert request.state.principal == who
        return [who.role, who.subject]

    @app.get("/runs")
    async def runs(who: Annotated[Principal, Depends(require("admin"))]) -> str:
        return who.role

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def test_a_token_of_the_role_is_let_in(client: httpx.AsyncClient) -> None:
    assert (await client.get("/runs", headers={"authorization": "Bearer admin-token"})).json() == "admin"
    assert (await client.get("/reports", headers={"authorization": "bearer node-token"})).json() == ["node", "7"]


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic admin-token", "admin-token", "Bearer wrong", "Bearer \xe9"]
)
async def test_no_token_or_a_wrong_one_is_401(client: httpx.AsyncClient, header: str | None) -> None:
    headers = {} if header is None else {b"authorization": header.encode("latin-1")}
    response = await client.get("/runs", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"


async def test_another_role_is_403_and_is_told_for_whom_it_is(client: httpx.AsyncClient) -> None:
    response = await client.get("/runs", headers={"authorization": "Bearer node-token"})
    assert response.status_code == 403
    assert "for admin" in response.json()["detail"]


def test_tokens_are_long_different_and_stored_as_sha256() -> None:
    assert tokens.new_token() != tokens.new_token()
    assert len(tokens.new_token()) >= 43
    assert tokens.sha256_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert tokens.same("a\u00e9", "a\u00e9")
    assert not tokens.same("a", "b")


def test_a_token_file_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "admin.token"
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(tokens.read_or_create, [path] * 16))) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [child.name for child in path.parent.iterdir()] == ["admin.token"]
    path.chmod(0o644)
    tokens.read_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_empty_token_file_lets_nobody_in_with_an_empty_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        tokens.read_or_create(tmp_path / "token")
