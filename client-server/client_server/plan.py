"""What is wanted of the SuperNode: the last start request, and whether it was asked to stop since."""

from pathlib import Path
from typing import Any, Literal

from control_plane.files import read_json, write_atomic
from pydantic import BaseModel

from client_server.schemas import SupernodeStartRequest


class Plan(BaseModel, frozen=True):
    """What supernode.json holds."""

    want: Literal["run", "stop"] = "stop"
    reason: str | None = None
    request: SupernodeStartRequest | None = None
    port: int | None = None
    restarts: int = 0


class PlanStore:
    """Keeps the plan over our own restarts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        stored = read_json(path)
        self.plan = Plan() if stored is None else Plan.model_validate(stored)

    def keep(self, plan: Plan) -> None:
        """Store a new plan."""
        write_atomic(self._path, plan.model_dump_json(indent=1) + "\n", 0o600)
        self.plan = plan

    def change(self, **changes: Any) -> None:
        """Store the plan with other values in some of its fields."""
        self.keep(self.plan.model_copy(update=changes))
