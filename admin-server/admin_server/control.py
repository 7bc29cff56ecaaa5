"""control.json, the way back to a running engine: what is wanted of it, and which nodes are known to be dead."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from control_plane.files import read_json, write_json

log = logging.getLogger(__name__)
Want = Literal["run", "pause", "stop"]
Nodes = Literal["same", "any"]


class ControlFile:
    """One run's control.json. Absent means: run, and nobody is lost. seq grows with each write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seq = 0
        self.want: Want = "run"
        self.lost_nodes: dict[str, str] = {}
        self.deaths: dict[str, dict[str, str]] = {}
        self.nodes: Nodes | None = None
        self._read()

    def ask(self, want: Want) -> None:
        """Want something of the engine. A stop stays a stop."""
        if self.want not in (want, "stop"):
            self.want = want
            self._write()

    def reopen(self, lost_nodes: Mapping[str, str], nodes: Nodes) -> None:
        """By hand, after the run's end: what was asked of it before is over. nodes: whom its next attempt waits for."""
        self.want, self.nodes, self.lost_nodes = "run", nodes, dict(lost_nodes)
        self._write()

    def go_on(self, lost_nodes: Mapping[str, str], *, by_hand: bool) -> None:
        """Before a new attempt: a stop is over, a pause stays. Nodes that were chosen by hand are those of one attempt alone."""
        self.want = "run" if self.want == "stop" else self.want
        self.lost_nodes, self.nodes = dict(lost_nodes), self.nodes if by_hand else None
        self._write()

    def lose(self, lost_nodes: Mapping[str, str], deaths: Mapping[str, dict[str, str]]) -> None:
        """Say which Flower nodes are known dead now, and why, and when each died last; deaths of a server before us stay."""
        deaths = {**self.deaths, **deaths}
        if (dict(lost_nodes), deaths) != (self.lost_nodes, self.deaths):
            self.lost_nodes, self.deaths = dict(lost_nodes), deaths
            self._write()

    def _write(self) -> None:
        self.seq += 1
        nodes = {} if self.nodes is None else {"nodes": self.nodes}
        told = {"seq": self.seq, "want": self.want, "lost_nodes": self.lost_nodes, "deaths": self.deaths, **nodes}
        write_json(self._path, told)

    def _read(self) -> None:
        try:
            told = read_json(self._path) or {}
            self.seq, self.want = int(told.get("seq", 0)), told.get("want", "run")
            self.nodes = told.get("nodes")
            self.lost_nodes = {str(node): str(reason) for node, reason in told.get("lost_nodes", {}).items()}
            self.deaths = {str(node): dict(death) for node, death in told.get("deaths", {}).items()}
        except (json.JSONDecodeError, ValueError, TypeError, AttributeError) as broken:
            log.warning("%s cannot be read and is written anew: %s", self._path, broken)
