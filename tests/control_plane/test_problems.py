import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from control_plane import problems
from control_plane.errors import Conflict, EspalierError, family
from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

OWN = [kind for kind in family() if kind.__module__.startswith("control_plane")]  # a server's kinds are tested with it


class Body(BaseModel):
    name: str
    rounds: int


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    problems.install(app, body_limit_bytes=1000, body_limits={"/large": 5000})

    @app.post("/body")
    @app.post("/large")
    async def body(request: Request) -> int:
        return len(await request.body())

    @app.post("/model")
    async def model(body: Body) -> Body:
        return body

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.get("/unexpected")
    async def unexpected() -> None:
        raise ZeroDivisionError("password=hunter2hunter2")

    @app.get("/framework/{status}")
    async def framework(status: int) -> None:
        raise HTTPException(status, headers={"Retry-After": "7"})

    @app.get("/halfway")
    async def halfway() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"part"
            raise Conflict

        return StreamingResponse(parts())

    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


def check(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"/docs/troubleshooting.md#{slug}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"] == response.request.url.path
    assert problem["request_id"] == response.headers["x-request-id"]
    return problem


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__)
async def test_every_error_of_the_family_becomes_its_problem(
    app: FastAPI, client: httpx.AsyncClient, kind: type[EspalierError]
) -> None:
    @app.get("/fails")
    async def fails() -> None:
        raise kind("It is so.", run_id="7", last_lines=["a"], status="a fact never hides a member")

    problem = check(await client.get("/fails"), kind.status, kind.slug)
    assert (problem["title"], problem["detail"]) == (kind.title, "It is so.")
    assert (problem["run_id"], problem["last_lines"]) == ("7", ["a"])


async def test_a_401_names_its_scheme(app: FastAPI, client: httpx.AsyncClient) -> None:
    response = await client.get("/framework/401")
    check(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


async def test_unknown_paths_and_wrong_methods_are_problems_too(client: httpx.AsyncClient) -> None:
    check(await client.get("/nowhere"), 404, "not-found")
    response = await client.get("/body")
    check(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


async def test_a_status_outside_the_family_keeps_its_status_and_headers(client: httpx.AsyncClient) -> None:
    response = await client.get("/framework/418")
    assert response.status_code == 418
    assert response.headers["retry-after"] == "7"
    assert (response.json()["type"], response.json()["title"]) == ("about:blank", "I'm a Teapot")


async def test_invalid_fields_are_named_and_the_input_is_not_sent_back(client: httpx.AsyncClient) -> None:
    response = await client.post("/model", json={"rounds": "secret-value"})
    problem = check(response, 422, "invalid")
    assert [one["at"] for one in problem["errors"]] == ["body.name", "body.rounds"]
    assert "body.name: Field required" in problem["detail"]
    assert "secret-value" not in response.text


async def test_a_body_that_is_no_json_is_malformed(client: httpx.AsyncClient) -> None:
    check(await client.post("/model", content=b"{", headers={"content-type": "application/json"}), 400, "malformed")


async def test_an_unexpected_error_says_nothing_of_itself_but_is_logged_with_the_request(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await client.get("/unexpected", headers={"x-request-id": "from-a-client.1"})
    problem = check(response, 500, "internal-error")
    assert problem["request_id"] == "from-a-client.1"
    assert "hunter2" not in response.text
    [logged] = [record for record in caplog.records if record.exc_info]
    assert logged.exc_info is not None
    assert isinstance(logged.exc_info[1], ZeroDivisionError)


async def test_an_error_after_the_answer_has_begun_is_not_hidden(client: httpx.AsyncClient) -> None:
    with pytest.raises(RuntimeError, match="response already started"):
        await client.get("/halfway")


@pytest.mark.parametrize("odd", ["", "a b", "x" * 65, "a\u00e9", "<script>"])
async def test_an_odd_request_id_is_replaced(client: httpx.AsyncClient, odd: str) -> None:
    response = await client.get("/health", headers={b"x-request-id": odd.encode()})
    assert len(response.headers["x-request-id"]) == 32


async def test_each_request_is_one_line_in_the_log(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await client.get("/nowhere")
    await client.get("/health")
    [line] = [record for record in caplog.records if record.name == "control_plane.requests"]
    assert line.getMessage() == "GET /nowhere"
    assert vars(line)["status"] == 404


class Chunks:
    """A chunked body that counts what was read of it."""

    def __init__(self, total: int, size: int = 100) -> None:
        self.total, self.size, self.given = total, size, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.given < self.total:
            self.given += self.size
            yield b"x" * self.size


async def test_a_body_within_the_limit_passes_chunked_or_not(client: httpx.AsyncClient) -> None:
    assert (await client.post("/body", content=b"x" * 1000)).json() == 1000
    assert (await client.post("/body", content=Chunks(1000))).json() == 1000
    assert (await client.post("/large", content=Chunks(5000))).json() == 5000


async def test_a_body_that_declares_too_much_is_refused_unread(client: httpx.AsyncClient) -> None:
    response = await client.post("/body", content=Chunks(10**9), headers={"content-length": str(10**9)})
    problem = check(response, 413, "body-too-large")
    assert problem["limit_bytes"] == 1000
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize("path", ["/body", "/model"])
async def test_a_chunked_body_is_refused_as_soon_as_it_passes_the_limit(client: httpx.AsyncClient, path: str) -> None:
    chunks = Chunks(10**9)
    check(await client.post(path, content=chunks), 413, "body-too-large")
    assert chunks.given <= 1200


async def test_a_content_length_that_is_no_number_is_malformed(client: httpx.AsyncClient) -> None:
    check(await client.post("/body", content=Chunks(10), headers={"content-length": "-1"}), 400, "malformed")
