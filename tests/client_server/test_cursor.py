"""A kill between any two steps of reporting: nothing is repeated, nothing is lost."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from client_server.activity import Activity
from client_server.coordinator import Coordinator
from client_server.folder import SiteFolder
from client_server.identity import IdentityStore
from client_server.patience import Patience
from client_server.reporter import Reporter


class Killed(Exception):
    """Where SIGKILL would have ended us."""


class MortalReporter(Reporter):
    """Dies at one moment: before or behind the n-th line that is spooled."""

    die_at: float | None = None
    spooled = 0

    def report(self, kind: str, data: Mapping[str, Any], *, droppable: bool = False) -> int:
        if self.die_at == self.spooled:
            raise Killed
        seq = super().report(kind, data, droppable=droppable)
        self.spooled += 1
        if self.die_at == self.spooled - 0.5:
            raise Killed
        return seq


def life(folder: SiteFolder, die_at: float | None) -> list[dict[str, Any]]:
    """Live once on a folder; gives what is in the spool at the end."""
    reporter = MortalReporter(folder.spool, 10_000_000, Coordinator(IdentityStore(folder)), Patience())
    reporter.die_at = die_at
    activity = Activity(folder, reporter, "all", 1_000_000, 0.25)
    try:
        activity.look()
        activity.finish()
    except Killed:
        pass
    finally:
        reporter.close()
    return reporter_lines(folder)


def reporter_lines(folder: SiteFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.spool.glob("*.jsonl")) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("die_at", [step / 2 for step in range(12)])
def test_each_line_is_spooled_once_whenever_we_are_killed(tmp_path: Path, die_at: float) -> None:
    folder = SiteFolder(tmp_path)
    folder.prepare()
    (folder.supernode / "supernode.log").write_text("one\ntwo\n")
    events = [
        {"event": kind, "flower_run_id": "7", "message_id": message, "at": "t"}
        for message in ("m1", "m2")
        for kind in ("message.started", "message.ended")
    ]
    for message in ("m1", "m2"):
        output = folder.clientapps / "7" / message / "output.log"
        output.parent.mkdir(parents=True)
        output.write_text(f"{message} says a\n{message} says b")
    folder.activity.write_text("".join(json.dumps(event) + "\n" for event in events))

    life(folder, die_at)
    life(folder, die_at=1.5)
    lines = life(folder, None)

    texts = [line["text"] for one in lines if one["kind"] == "log" for line in one["data"]["lines"]]
    assert texts == ["one", "two", "m1 says a", "m1 says b", "m2 says a", "m2 says b"]
    told = [(one["data"]["event"], one["data"]["message_id"]) for one in lines if one["kind"] == "clientapp"]
    assert told == [(event["event"], event["message_id"]) for event in events]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert life(folder, None) == lines
