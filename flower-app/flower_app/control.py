"""control.json: what the admin server wants of a running engine. Replaced atomically, read at each poll."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

WANTS = ("run", "pause", "stop")
NODES = (None, "same", "any")


class StopAsked(Exception):
    """Somebody wants the run to end now."""


@dataclass(frozen=True)
class Death:
    """A node's last death; at: when the admin server heard of it, by the clock of this machine."""

    at: datetime
    reason: str


@dataclass(frozen=True)
class Control:
    """What is wanted, which nodes are known dead, with the reason, and whom an attempt that goes on waits for.

    deaths: the last one of each node, be it back or not.
    """

    want: str = "run"
    lost_nodes: Mapping[int, str] = field(default_factory=dict)
    deaths: Mapping[int, Death] = field(default_factory=dict)
    nodes: str | None = None

    def why_lost(self, node_id: int, left_at: datetime) -> str | None:
        """Say why what a node was sent at left_at will not be answered."""
        death = self.deaths.get(node_id)
        return self.lost_nodes.get(node_id) or (death.reason if death and death.at > left_at else None)


class ControlFile:
    """The way back to the engine; an absent file wants run."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen = Control()
        self._unreadable: str | None = None

    def read(self) -> Control:
        """Give what is wanted now.

        A file that cannot be understood changes nothing and is told once: a run must not end by a slip of its steering.
        """
        if self._path is None:
            return self._seen
        try:
            self._seen = _parsed(self._path.read_bytes())
            self._unreadable = None
        except FileNotFoundError:
            self._seen = Control()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if str(error) != self._unreadable:
                self._unreadable = str(error)
                print(f"control.json cannot be read and is passed over: {error!r}", flush=True)
        return self._seen


def _parsed(data: bytes) -> Control:
    parts = json.loads(data)
    want = parts.get("want", "run")
    if want not in WANTS:
        raise ValueError(f"want is {want!r}, not one of {', '.join(WANTS)}")
    nodes = parts.get("nodes")
    if nodes not in NODES:
        raise ValueError(f"nodes is {nodes!r}, not same or any")
    lost = {int(node): str(reason) for node, reason in parts.get("lost_nodes", {}).items()}
    deaths = {int(node): Death(_moment(death["at"]), str(death["reason"])) for node, death in parts.get("deaths", {}).items()}
    return Control(want, lost, deaths, nodes)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} is in no time zone")
    return moment
