"""Where the files of one run lie: `runs/<series id>/`, one directory for all its attempts."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunDirectory:
    """The paths below runs/<series id>/. Nothing here touches the disk."""

    path: Path

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def control(self) -> Path:
        return self.path / "control.json"

    def attempt(self, flower_run_id: str) -> Path:
        return self.path / "attempts" / flower_run_id

    def server_log(self, flower_run_id: str) -> Path:
        return self.attempt(flower_run_id) / "server.log"

    def client_log(self, name: str, flower_node_id: str) -> Path:
        """Where a site's forwarded lines go. name: the node's, for people; the ServerApp puts the node's updates there too."""
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:200].lstrip(".") or "node"
        return self.path / "clients" / f"{plain}-{flower_node_id[-6:]}" / "client.log"


def stream_of(flower_run_id: str) -> str:
    """Name the ServerApp's output of one attempt, as the store keeps its offset."""
    return f"attempts/{flower_run_id}/server.log"
