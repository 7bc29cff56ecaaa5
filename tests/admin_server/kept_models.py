"""A run that has kept models: real files in its directory, and their lines applied."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from db.store import Store
from tests.admin_server.admin_app import CLOSED, OPENED, RECORDS, Server, record, update

SERIES, ATTEMPT = "900", "77"


class KeptRun:
    """A run of one node and a few rounds, in a home."""

    def __init__(self, store: Store, project_id: str, home: Path) -> None:
        self.store, self._project_id = store, project_id
        self.folder = home / "runs" / SERIES
        self.id = ""
        self._records: list[dict[str, Any]] = []

    async def begin(self, *nodes: str) -> "KeptRun":
        """Close one round in which these nodes counted."""
        run = await self.store.begin_run(self._project_id, "flower-app", "f" * 64, {"lr": 0.1}, None, "shell")
        await self.store.begin_attempt(run["id"], ATTEMPT, SERIES)
        self.id = run["id"]
        opened = {"model": {"parameters": 1, "size_bytes": 4}, "config": {"lr": 0.1, "workload": "digits"}}
        commit = {"file": "commit/round-1.safetensors", "sha256": "a" * 64, "size_bytes": 9}
        await self.tell("run.opened", **OPENED, **opened)
        await self.tell("round.opened", round=1, nodes=list(nodes), needed=len(nodes))
        for node in nodes:
            await self.apply(update(self._next(), 1, node))
        await self.tell("round.closed", round=1, **CLOSED, commit=commit)
        return self

    async def keep(self, content: bytes, name: str = "final", role: str = "final") -> dict[str, Any]:
        """Keep a model as the engine does, and give its row."""
        path = self.folder / "models" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        told = {"name": name, "role": role, "path": f"models/{path.name}", "sha256": sha256(content), "size_bytes": len(content)}
        await self.tell("artifact", **told, format="safetensors", round=1, parents=["a" * 64])
        (row,) = await self.store.rows("artifact_list", {"run_id": self.id, "name": name})
        return row

    async def let_go(self, artifact: dict[str, Any]) -> None:
        """Remove one as retention does: the line, then the file."""
        told = {name: artifact[name] for name in ("name", "role", "sha256", "round")}
        await self.tell("artifact.removed", path=artifact["uri"], **told)
        (self.folder / artifact["uri"]).unlink()

    async def tell(self, kind: str, **fields: Any) -> None:
        """Apply one more line."""
        await self.apply(record(self._next(), kind, **fields))

    async def apply(self, line: dict[str, Any]) -> None:
        self._records.append(line)
        answer = await self.store.apply_journal(self.id, [line], len(self._records))
        assert answer["refused"] == 0

    def _next(self) -> int:
        return len(self._records) + 1


def committed(folder: Path) -> list[dict[str, Any]]:
    """Put a commit into a run's directory, and give its journal's records so far."""
    content = safetensors.numpy.save({"model/w": np.ones(3, np.float32), "strategy/m_t/w": np.zeros(3, np.float32)})
    (folder / "commit").mkdir()
    (folder / "commit" / "round-1.safetensors").write_bytes(content)
    proof = {"file": "commit/round-1.safetensors", "sha256": sha256(content), "size_bytes": len(content)}
    return [*RECORDS[:6], {**RECORDS[6], "commit": proof}]


async def assert_can_be_promoted(server: Server, run_id: str) -> dict[str, Any]:
    """See that a run has a final model, made of its commit; give its artifact's row."""
    answer = await server.admin.post("/models", json={"run_id": run_id, "why": "it is there"})
    assert answer.status_code == 201, answer.text
    (row,) = await server.store.rows("artifact_list", {"run_id": run_id, "role": "final"})
    (closed,) = await server.store.rows("round_list", {"run_id": run_id})
    assert (row["round"], row["parents"]) == (1, [closed["commit"]["sha256"]])
    copy = await server.admin.get("/models/latest")
    assert [sha256(copy.content), len(copy.content)] == [row["sha256"], row["size_bytes"]]
    assert safetensors.numpy.load(copy.content)["w"].tolist() == [1, 1, 1]
    return row


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
