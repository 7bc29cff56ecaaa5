"""Where everything of one run lies, below ESPALIER_RUN_DIR; the ServerApp writes nowhere else."""

import re
from pathlib import Path

RUN_DIR, ATTEMPT = "ESPALIER_RUN_DIR", "ESPALIER_ATTEMPT"


class RunDirectory:
    """The names of design and documents: docs/journal.md has the whole tree."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.journal = root / "journal.jsonl"
        self.control = root / "control.json"
        self.commits = root / "commit"
        self.config = root / "config.json"
        self.history = root / "history.json"
        self.chart = root / "chart.png"
        self.models = root / "models"

    def update(self, name: str | None, node_id: str, part: str) -> Path:
        """Name the file of one node's part in one round. name: the node's, None while it has told none. part: `3_evaluate`."""
        return self.root / "clients" / folder_name(name, node_id) / f"round_{part}.json"

    def aggregate(self, server_round: int) -> Path:
        """Name the file of one round's sum."""
        return self.root / "server" / f"round_{server_round}_aggregated.json"


def folder_name(name: str | None, node_id: str) -> str:
    """Make one plain folder name of a node's name, which is its own choice and may be another's too, and of its Flower id."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name or "node")[:200].lstrip(".") or "node"
    return f"{plain}-{node_id[-6:]}"
