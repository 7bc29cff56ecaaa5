"""The real app over ASGI, clients for each role, and a small Flower app; every answer's status must be a documented one."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from control_plane.tokens import new_token, sha256_of
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from db.store import Store


@dataclass
class Server:
    """A running app with a client that holds the admin token."""

    app: FastAPI
    state: dict[str, Any]
    admin: httpx.AsyncClient
    home: Path

    @property
    def project_id(self) -> str:
        return str(self.state["server"].project["id"])

    @property
    def store(self) -> Store:
        store: Store = self.state["server"].database.store
        return store

    def client(self, token: str | None) -> httpx.AsyncClient:
        """A client with another token, or none."""
        return client_of(self.app, self.state, token)

    async def node(self, external_id: str = "site-a") -> tuple[str, httpx.AsyncClient]:
        """Enrol a node in the database, with a Flower id, and give its id and its client."""
        token, secret = new_token(), new_token()
        await self.store.create_invitation(self.project_id, sha256_of(secret), None, 60)
        flower_id = str(int.from_bytes(token.encode()[:7]))
        row = await self.store.redeem_invitation(sha256_of(secret), external_id, external_id, "key", flower_id, sha256_of(token))
        return row["id"], self.client(token)


_documented: dict[str, Any] = {}


def documented_paths(app: FastAPI) -> dict[str, Any]:
    """Give OpenAPI's paths, made once: they are the same for every app."""
    if not _documented:
        _documented.update(app.openapi()["paths"])
    return _documented


def client_of(app: FastAPI, state: dict[str, Any], token: str | None) -> httpx.AsyncClient:
    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    async def is_documented(answer: httpx.Response) -> None:
        method, path = answer.request.method, answer.request.url.path
        for template, operations in documented_paths(app).items():
            if method.lower() in operations and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
                documented = operations[method.lower()]["responses"]
                assert str(answer.status_code) in documented, f"{method} {template} answered {answer.status_code}"
                return

    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    transport = httpx.ASGITransport(with_state, raise_app_exceptions=False)
    return httpx.AsyncClient(
        transport=transport, base_url="http://admin.test:8000", headers=headers, event_hooks={"response": [is_documented]}
    )


def write_app(folder: Path, *, config: str = "num-rounds = 3\nlr = 0.1\nname = 'x'\nfast = false", more: str = "") -> Path:
    """Write a small Flower app that needs nothing but flwr."""
    folder.mkdir(parents=True)
    name = re.sub(r"[^a-z0-9-]", "-", folder.name)
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "{name}"\nversion = "1.0.0"\ndescription = "d"\nlicense = "Apache-2.0"\n'
        '[tool.flwr.app]\npublisher = "lab"\n'
        f'[tool.flwr.app.components]\nserverapp = "server:app"\nclientapp = "client:app"\n'
        f"[tool.flwr.app.config]\n{config}\n{more}"
    )
    (folder / "client.py").write_text("from flwr.clientapp import ClientApp\napp = ClientApp()\n")
    (folder / "server.py").write_text(
        "from flwr.serverapp import ServerApp\napp = ServerApp()\n\n@app.main()\ndef main(grid, context):\n    print('hello')\n"
    )
    return folder


def record(seq: int, kind: str, **fields: Any) -> dict[str, Any]:
    """Make a journal record of attempt 77."""
    return {"seq": seq, "at": f"2026-11-22T08:00:{seq:02d}.000Z", "attempt": "77", "kind": kind, **fields}


def update(seq: int, server_round: int, node_id: str, status: str = "counted", **fields: Any) -> dict[str, Any]:
    told = {"metrics": {"train_loss": 0.5}, "bytes_down": 10, "bytes_up": 11, "timings": {"total_s": 1.5}, "num_examples": 8}
    told |= {"facts": {"node_name": f"node {node_id}"}, "cause": None, "message_id": f"m{seq}"}
    told |= {"counted_in_round": server_round if status == "counted" else None, "awaited": False, **fields}
    return record(seq, "update", round=server_round, node_id=node_id, update_kind="train", wave=0, status=status, **told)


CAUSE = {"node_id": "5", "node_name": "b", "type": "KeyError", "message": "age", "traceback": "Traceback …", "last_lines": ["x"]}
OPENED = {"workload": "digits", "strategy": "fedavg", "num_rounds": 1, "seed": 42, "min_available": 2, "resumed_after": 0}
OPENED |= {"initial_model": None}
CLOSED = {
    "counted": 1,
    "carried": 0,
    "expected": 2,
    "num_examples": 8,
    "metrics": {"loss": 0.5},
    "server_metrics": {"accuracy": 0.9},
}
CLOSED |= {"seconds": 2.5, "aggregate_s": 0.1, "bytes_down": 20, "bytes_up": 11}
MODEL = {"parameters": 10, "size_bytes": 40, "whole_parameters": 1000, "whole_size_bytes": None}
RECORDS: list[dict[str, Any]] = [
    record(1, "run.opened", **OPENED, model=MODEL, config={"lr": 0.1, "workload": "digits"}),
    record(2, "run.paused", after_round=0),
    record(3, "run.resumed", after_round=0),
    record(4, "round.opened", round=1, nodes=["4", "5"], needed=2),
    update(5, 1, "4"),
    update(6, 1, "5", "failed", cause=CAUSE, num_examples=None, metrics={}, bytes_up=0),
    record(
        7, "round.closed", round=1, **CLOSED, commit={"file": "commit/round-1.safetensors", "sha256": "a" * 64, "size_bytes": 9}
    ),
    record(
        8,
        "artifact",
        name="final",
        role="final",
        path="models/final.safetensors",
        sha256="b" * 64,
        size_bytes=9,
        format="safetensors",
        round=1,
        parents=["a" * 64],
        score=None,
    ),
    record(9, "run.closed", status="completed", last_round=1, cause=None, ended_early=None),
]


async def started_run(server: Server, flower_run_id: str = "77", series_id: str = "900") -> dict[str, Any]:
    """Write a run that Flower has taken, as the watcher would find it."""
    run = await server.store.begin_run(server.project_id, "flower-app", "f" * 64, {"lr": 0.1}, None, "shell")
    await server.store.begin_attempt(run["id"], flower_run_id, series_id)
    return (await server.store.rows("run_list", {"id": run["id"]}))[0]
