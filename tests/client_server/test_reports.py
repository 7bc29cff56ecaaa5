"""What the coordinator is told: in order, once, whatever fails between; and of logs only what FORWARD_LOGS lets out."""

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from client_server.spools import ReportSpool, open_spool
from control_plane.errors import SpoolInUse
from control_plane.spool import Spool

from tests.client_server.conftest import OpenSite, SiteMaker, eventually
from tests.client_server.stand_ins import AdminStandIn


def event(kind: str, message: str, **facts: Any) -> str:
    """Write a line of activity.jsonl as the launcher does."""
    common = {"seq": 1, "at": "2026-01-01T00:00:00.000Z", "event": kind, "flower_run_id": "77", "message_id": message}
    unknown: dict[str, Any] = {"pid": 1234, "rc": None, "signal": None, "reason": None, "last_lines": [], "seconds": None}
    return f"note {json.dumps(common | unknown | facts)}"


TRACEBACK = "Traceback (most recent call last):\\n  File x, line 1, in train\\n    row = rows[7]\\nKeyError: 7\\n"
DIED = {"signal": 9, "reason": "killed by signal 9 (SIGKILL)", "last_lines": ["patient 12", "about to die"]}
STORY = (
    event("message.started", "m1"),
    f"output 77 m1 patient 12\\nINFO :      epoch 1\\n{TRACEBACK}WARNING :   slow\\nhalf a line",
    event("clientapp.died", "m1", **DIED),
    "say \x1b[92mINFO \x1b[0m:      Receiving: train message",
    "say \x1b[91mERROR \x1b[0m:     the SuperLink said no",
)


@pytest.mark.parametrize(
    ("forward_logs", "clientapp", "supernode", "last_lines"),
    [
        ("none", [], [], []),
        (
            "errors",
            ["Traceback (most recent call last):", "  File x, line 1, in train", "    row = rows[7]", "KeyError: 7"],
            ["ERROR :     the SuperLink said no"],
            ["patient 12", "about to die"],
        ),
        (
            "all",
            [
                "patient 12",
                "INFO :      epoch 1",
                *("Traceback (most recent call last):", "  File x, line 1, in train", "    row = rows[7]", "KeyError: 7"),
                "WARNING :   slow",
                "half a line",
            ],
            ["SuperNode ID: 4711", "INFO :      Receiving: train message", "ERROR :     the SuperLink said no"],
            ["patient 12", "about to die"],
        ),
    ],
)
async def test_forward_logs_rules_what_of_logs_leaves_the_site(
    sites: SiteMaker, admin: AdminStandIn, forward_logs: str, clientapp: list[str], supernode: list[str], last_lines: list[str]
) -> None:
    async with sites.open(forward_logs=forward_logs) as site:
        await site.enrol(admin.invitation())
        await site.start()
        pid = site.record().pid
        site.tell_supernode(*STORY, event("message.started", "m2"), "exit 3")
        await site.running(not_pid=pid)
        await eventually(lambda: "failed" in [status for _, status in admin.statuses()])
        await eventually(
            lambda: any(data["event"] == "message.started" and data["message_id"] == "m2" for data in admin.of_kind("clientapp"))
        )
    assert admin.texts("clientapp") == clientapp
    assert [text for text in admin.texts("supernode") if "ID: 4711" not in text] == [
        text for text in supernode if "ID: 4711" not in text
    ]
    died = next(data for data in admin.of_kind("clientapp") if data["event"] == "clientapp.died")
    assert died["reason"] == "killed by signal 9 (SIGKILL)"
    assert died["last_lines"] == last_lines
    failed = next(data for data in admin.of_kind("session") if data["status"] == "failed")
    assert bool(failed["last_lines"]) == (forward_logs != "none")
    if forward_logs == "none":
        assert "patient" not in json.dumps(admin.lines)
        assert "SuperLink said no" not in json.dumps(admin.lines)


async def test_forwarded_lines_name_run_message_level_and_time(sites: SiteMaker, admin: AdminStandIn) -> None:
    async with sites.open(forward_logs="all") as site:
        await site.enrol(admin.invitation())
        await site.start()
        site.tell_supernode(*STORY)
        await eventually(lambda: len(admin.texts("clientapp")) == 8)
    logs = [data for data in admin.of_kind("log") if data["source"] == "clientapp"]
    assert {(data["flower_run_id"], data["message_id"]) for data in logs} == {("77", "m1")}
    lines = [line for data in logs for line in data["lines"]]
    assert [line["level"] for line in lines] == ["INFO", "INFO", "ERROR", "ERROR", "ERROR", "ERROR", "WARNING", "INFO"]
    assert all(datetime.fromisoformat(line["at"]).tzinfo for line in lines)
    kinds = [line["kind"] for line in admin.lines if line["data"].get("message_id") == "m1"]
    assert kinds[-1] == "clientapp", "the end of a ClientApp is told after its last line"


async def test_the_message_at_work_is_shown(site: OpenSite, admin: AdminStandIn) -> None:
    await site.start()
    site.tell_supernode(event("message.started", "m1"))
    await eventually(lambda: site.site.activity.message_at_work)
    at_work = (await site.get("/supernode"))["message_at_work"]
    assert at_work == {"flower_run_id": "77", "message_id": "m1", "pid": 1234, "since": "2026-01-01T00:00:00.000Z"}
    site.tell_supernode(event("message.ended", "m1", rc=0, seconds=1.5))
    await eventually(lambda: site.site.activity.message_at_work is None)
    await eventually(lambda: [data["event"] for data in admin.of_kind("clientapp")] == ["message.started", "message.ended"])


async def test_a_line_of_the_launcher_that_is_no_event_is_passed_over(site: OpenSite, admin: AdminStandIn) -> None:
    await site.start()
    site.tell_supernode("note hello", 'note {"event": 3}', event("message.started", "m1"))
    await eventually(lambda: admin.of_kind("clientapp"))
    assert [data["message_id"] for data in admin.of_kind("clientapp")] == ["m1"]


async def test_reports_wait_for_an_admin_server_that_is_away_or_fails(site: OpenSite, admin: AdminStandIn) -> None:
    await site.start()
    await admin.listener.disappear()
    pid = site.record().pid
    site.tell_supernode("exit 1")
    await site.running(not_pid=pid)
    assert site.site.coordinator.state == "away"
    admin.report_status = 503
    await admin.listener.appear()
    await eventually(lambda: admin.heartbeats and admin.heartbeats[-1]["supernode_state"] == "running")
    assert len(admin.statuses()) <= 2
    admin.report_status, admin.swallow_answers = 200, 3
    await eventually(lambda: len(admin.statuses()) == 5)
    assert [status for _, status in admin.statuses()] == ["starting", "running", "failed", "starting", "running"]
    seqs = [line["seq"] for line in admin.lines]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_a_backlog_goes_out_in_batches(sites: SiteMaker, admin: AdminStandIn) -> None:
    await admin.listener.disappear()
    sites.folder.mkdir(parents=True)
    async with sites.open() as site:
        for number in range(2500):
            site.site.reporter.report("clientapp", {"number": number}, droppable=True)
        await admin.listener.appear()
        await site.enrol(admin.invitation())
        for number in range(2500):
            site.site.reporter.report("clientapp", {"number": number}, droppable=True)
        await eventually(lambda: len(admin.of_kind("clientapp")) == 2500)
    assert [data["number"] for data in admin.of_kind("clientapp")] == list(range(2500))


async def test_a_report_that_cannot_be_read_holds_up_no_other(site: OpenSite, admin: AdminStandIn) -> None:
    admin.refuse_kind = "unheard-of"
    for number in range(5):
        site.site.reporter.report("clientapp", {"number": number})
    site.site.reporter.report("unheard-of", {})
    site.site.reporter.report("clientapp", {"number": 5})
    # The stand-in applies only what follows on, and never had the refused line: the last one comes under a new spool id.
    await eventually(lambda: [data["number"] for data in admin.of_kind("clientapp")] == [0, 1, 2, 3, 4, 5])
    await eventually(lambda: not site.site.reporter.waiting(10))


async def test_the_coordinator_hears_a_heartbeat_with_the_state(site: OpenSite, admin: AdminStandIn) -> None:
    await eventually(lambda: admin.heartbeats)
    assert admin.heartbeats[0]["supernode_state"] == "stopped"
    await site.start()
    session = (await site.get("/supernode"))["session_id"]
    await eventually(lambda: admin.heartbeats[-1]["supernode_state"] == "running")
    last = admin.heartbeats[-1]
    assert (last["session_id"], last["flower_node_id"]) == (session, "4711")
    assert datetime.fromisoformat(last["reported_at"]).tzinfo


async def test_what_is_wanted_lies_where_the_launcher_reads_it(site: OpenSite, admin: AdminStandIn) -> None:
    path = site.folder / "wanted.json"
    await eventually(path.exists)
    assert json.loads(path.read_text()) == {"seq": 1000, "over_runs": [], "cancelled_messages": []}
    admin.want("4242")
    await eventually(lambda: json.loads(path.read_text())["seq"] == 1001)
    assert json.loads(path.read_text())["over_runs"] == ["4242"]


async def test_a_full_spool_lets_log_lines_go_and_says_how_many(sites: SiteMaker, admin: AdminStandIn) -> None:
    async with sites.open(spool_cap_bytes=1_000_000) as site:
        await site.enrol(admin.invitation())
        await eventually(lambda: admin.of_kind("inventory"))
        await admin.listener.disappear()
        line = {"at": "2026-01-01T00:00:00Z", "level": "INFO", "text": "x" * 1000}
        for _ in range(30):
            site.site.reporter.report("log", {"source": "clientapp", "lines": [line] * 50}, droppable=True)
        site.site.reporter.report("clientapp", {"number": 1})
        dropped = (await site.get("/health"))["spooled_lines_dropped"]["log"]
        assert dropped > 0
        await admin.listener.appear()
        await eventually(lambda: admin.of_kind("clientapp"))
    assert sum(data.get("log_lines", 0) for data in admin.of_kind("dropped")) == 50 * dropped
    assert len(admin.of_kind("log")) == 30 - dropped


async def test_the_spool_belongs_to_one_server(site: OpenSite) -> None:
    with pytest.raises(SpoolInUse):
        await asyncio.to_thread(Spool, site.folder / "spool")


async def test_a_coordinator_whose_database_was_set_back_hears_on(site: OpenSite, admin: AdminStandIn) -> None:
    reporter = site.site.reporter
    for number in range(3):
        reporter.report("clientapp", {"number": number})
    await eventually(lambda: len(admin.of_kind("clientapp")) == 3)
    before = reporter.spool_id
    admin.applied.clear()
    admin.lines.clear()
    for number in range(3, 6):
        reporter.report("clientapp", {"number": number})
    await eventually(lambda: len(admin.of_kind("clientapp")) == 3)
    assert [data["number"] for data in admin.of_kind("clientapp")] == [3, 4, 5]
    assert reporter.spool_id != before
    reporter.report("clientapp", {"number": 6})
    await eventually(lambda: len(admin.of_kind("clientapp")) == 4)


def test_a_renumbering_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    old, anew = ReportSpool(tmp_path / "spool"), ReportSpool(tmp_path / "spool.anew")
    for number in range(5):
        old.append("clientapp", {"number": number})
    old.acknowledge(2)
    anew.append("clientapp", {"number": 1})
    old.close()
    anew.close()
    spool = open_spool(tmp_path / "spool", 1_000_000)
    assert [(line["seq"], line["data"]["number"]) for line in spool.pending()] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert not (tmp_path / "spool.anew").exists()
    spool.close()
