"""A site that reports: its node, its token, and a run that its lines belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from control_plane.tokens import new_token

from benchmarks.api_cases import filling
from db.store import Store


@dataclass(frozen=True)
class Site:
    """A node whose token we have, and a run that goes on, with the Flower id under which the node reports its lines."""

    node_id: str
    token: str
    run_id: str
    flower_run_id: str

    def report(self, spool_id: str, seq: int, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """Give the body of POST /nodes/{id}/reports that forwards these lines."""
        data = {"source": "clientapp", "flower_run_id": self.flower_run_id, "lines": lines}
        return {"spool_id": spool_id, "lines": [{"seq": seq, "kind": "log", "data": data}]}


async def new_site(store: Store, project_id: str) -> Site:
    token, flower_run_id = new_token(), str(uuid4().int % 10**18)
    node_id = await filling.node(store, project_id, 0, token)
    run = await store.begin_run(project_id, "flower-app", "f" * 64, {}, None, "shell")
    await store.begin_attempt(run["id"], flower_run_id, flower_run_id)
    return Site(node_id, token, run["id"], flower_run_id)
