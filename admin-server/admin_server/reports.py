"""Taking in what client servers report, each line once; their log lines also go into the run's directory."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

from admin_server.lost_nodes import LostNodes
from admin_server.rundir import RunDirectory
from admin_server.schemas import Reports
from db.store import Store

log = logging.getLogger(__name__)


class Intake:
    """Apply report lines to the store and pass on what they mean for running runs."""

    def __init__(self, store: Store, runs_dir: Path, lost_nodes: LostNodes) -> None:
        self._store = store
        self._runs_dir = runs_dir
        self._lost_nodes = lost_nodes
        self._directories: dict[str, RunDirectory] = {}
        self._writing = asyncio.Lock()

    async def accept(self, node_id: str, reports: Reports) -> int:
        """Apply lines in order; give the highest seq up to which the sender may forget."""
        answer = await self._store.accept_reports(node_id, reports.spool_id, reports.lines)
        if answer["refused"]:
            log.warning("%d report lines of node %s are malformed and were refused", answer["refused"], node_id)
        await self._tell_of_supernodes(answer["events"])
        await self._write_client_logs(node_id, answer["lines"])
        return int(answer["applied_seq"])

    async def _tell_of_supernodes(self, events: list[dict[str, Any]]) -> None:
        """A node that was dropped by its own client server has a dead SuperNode; one that joined has a live one."""
        told = {"fl.client.dropped", "fl.client.joined"}
        for event in events:
            if event["name"] not in told or event["node_id"] is None:
                continue
            rows = await self._store.rows("node_list", {"id": event["node_id"]}, limit=1)
            flower_node_id = rows[0]["flower_node_id"] if rows else None
            if flower_node_id is None:
                continue
            if event["name"] == "fl.client.dropped":
                self._lost_nodes.dead(flower_node_id, event["data"].get("reason") or "its SuperNode ended")
            else:
                self._lost_nodes.alive(flower_node_id)

    async def _write_client_logs(self, node_id: str, lines: list[dict[str, Any]]) -> None:
        """Append a node's forwarded lines to clients/<node>/client.log of their run."""
        if not lines:
            return
        (node,) = await self._store.rows("node_list", {"id": node_id}, limit=1)
        texts: dict[Path, list[str]] = defaultdict(list)
        for line in lines:
            directory = await self._directory_of(line["run_id"]) if line["run_id"] else None
            if directory is not None:
                path = directory.client_log(node["display_name"], node["flower_node_id"] or "")
                texts[path].append(f"{line['at']} {line['level'].upper()} {line['text']}\n")
        async with self._writing:
            for path, several in texts.items():
                try:
                    await asyncio.to_thread(append, path, "".join(several))
                except OSError as error:  # the rows are there: a sender who was told of an error would send in vain
                    log.warning("%s lacks %d lines that the database has: %s", path, len(several), error.strerror)

    async def _directory_of(self, run_id: str) -> RunDirectory | None:
        if run_id not in self._directories:
            rows = await self._store.rows("run_list", {"id": run_id}, limit=1)
            if not rows or rows[0]["series_id"] is None:
                return None
            self._directories[run_id] = RunDirectory(self._runs_dir / rows[0]["series_id"])
        return self._directories[run_id]


def append(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
