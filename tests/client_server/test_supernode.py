"""The SuperNode under supervision: real processes, real signals, a stand-in for Flower."""

import json
import os
import signal

import pytest
from client_server.folder import SiteFolder
from client_server.hardware import usable_cores
from client_server.launch import supernode_environment
from control_plane.identity import ProcessRecord

from tests.client_server.conftest import OpenSite, SiteMaker, eventually
from tests.client_server.stand_ins import AdminStandIn, Listener


async def test_a_started_supernode_runs_and_its_session_is_reported(site: OpenSite, admin: AdminStandIn) -> None:
    await site.start(partition_id=1, num_partitions=3)
    described = await site.get("/supernode")
    assert described["state"] == "running"
    assert described["pid"] == site.record().pid
    assert described["flower_node_id"] == "4711"
    assert described["restarts"] == 0
    await eventually(lambda: len(admin.statuses()) == 2)
    assert admin.statuses() == [(described["session_id"], "starting"), (described["session_id"], "running")]
    running = admin.of_kind("session")[1]
    assert running["pid"] == described["pid"]
    assert running["flower_node_id"] == "4711"
    assert running["runtime_config"]["partition_id"] == 1
    assert running["runtime_config"]["superlink_address"] == admin.superlink_address


@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ("exit 0", "exited", "exit code 0"),
        ("exit 3", "failed", "exit code 3"),
        ("exit 75", "failed", "Flower's main loop ended by itself (exit code 75)"),
        ("SIGKILL", "failed", "killed by signal 9 (SIGKILL)"),
        ("silent", "failed", "it had not talked to the SuperLink for 0.3 s"),
    ],
)
async def test_a_supernode_that_ends_unasked_is_told_deactivated_and_restarted(
    site: OpenSite, sites: SiteMaker, admin: AdminStandIn, how: str, status: str, reason: str
) -> None:
    await site.start()
    first = (await site.get("/supernode"))["session_id"]
    pid = site.record().pid
    if how == "SIGKILL":
        os.kill(pid, signal.SIGKILL)
    else:
        site.tell_supernode("say the last words", how)
    await site.running(not_pid=pid)
    described = await site.get("/supernode")
    assert described["restarts"] == 1
    assert described["session_id"] != first
    await eventually(lambda: len(admin.statuses()) == 5)
    assert [said for _, said in admin.statuses()] == ["starting", "running", status, "starting", "running"]
    ended = admin.of_kind("session")[2]
    assert ended["session_id"] == first
    assert ended["reason"] == reason
    if how != "SIGKILL":
        assert "the last words" in ended["last_lines"]
    assert len(sites.deactivated()) == 1
    key = site.folder / "node.key"
    assert f"--key {key} --node-id 4711" in sites.deactivated()[0]
    assert f"--superlink {admin.superlink_address} --root-certificates {site.folder / 'ca.crt'}" in sites.deactivated()[0]


async def test_a_supernode_that_could_not_be_deactivated_is_before_its_next_start(site: OpenSite, sites: SiteMaker) -> None:
    await site.start()
    sites.refused.touch()
    pid = site.record().pid
    site.tell_supernode("exit 3")
    pid = await site.running(not_pid=pid)
    assert len(sites.deactivated()) == 2, "when it had ended, and before it was started"
    sites.refused.unlink()
    site.tell_supernode("exit 3")
    await site.running(not_pid=pid)
    assert len(sites.deactivated()) == 3, "once is enough where it is heard"


async def test_a_stopped_supernode_is_not_restarted_nor_deactivated(
    site: OpenSite, sites: SiteMaker, admin: AdminStandIn
) -> None:
    await site.start()
    record = site.record()
    answer = await site.post("/supernode/stop")
    assert answer.status_code == 202
    assert answer.headers["location"] == "/supernode"
    await eventually(lambda: site.site.supernode.state == "stopped")
    assert not record.is_alive()
    await eventually(lambda: len(admin.statuses()) == 4)
    assert [said for _, said in admin.statuses()] == ["starting", "running", "stopping", "stopped"]
    assert admin.of_kind("session")[-1]["reason"] == "stopped by request"
    assert sites.deactivated() == []
    again = await site.post("/supernode/stop")
    assert again.status_code == 409
    assert again.json()["state"] == "stopped"


async def test_a_supernode_that_is_not_ready_is_tried_again_and_shown_as_failed(site: OpenSite, admin: AdminStandIn) -> None:
    at_start = site.folder / "supernode" / "at-start"
    at_start.write_text("say Failed: [code: 2004] Failed to activate SuperNode.\nexit 1\n")
    answer = await site.post("/supernode/start", {})
    assert answer.status_code == 202
    await eventually(lambda: site.site.supernode.state == "failed")
    described = await site.get("/supernode")
    assert described["reason"] == "exit code 1 before it was ready: [code: 2004] Failed to activate SuperNode."
    assert "Failed: [code: 2004] Failed to activate SuperNode." in described["last_lines"]
    at_start.unlink()
    await site.running()
    assert (await site.get("/supernode"))["reason"] is None
    await eventually(lambda: admin.statuses()[-1][1] == "running")
    assert [said for _, said in admin.statuses()][:3] == ["starting", "failed", "starting"]


@pytest.mark.parametrize("how", ["starting", "backing off", "waiting for the SuperLink"])
async def test_a_stop_comes_through_before_it_runs(
    site: OpenSite, admin: AdminStandIn, superlink_there: Listener, how: str
) -> None:
    at_start = site.folder / "supernode" / "at-start"
    at_start.write_text("hang 60\n" if how == "starting" else "exit 1\n")
    if how == "waiting for the SuperLink":
        at_start.unlink()
        await site.start()
        await superlink_there.disappear()
        site.tell_supernode("exit 1")
        await eventually(lambda: "Nothing answers" in (site.site.supernode.describe()["reason"] or ""))
    else:
        assert (await site.post("/supernode/start", {})).status_code == 202
        started = site.folder / "supernode" / "started-with.json"
        await eventually(started.exists if how == "starting" else lambda: site.site.supernode.state == "failed")
    assert (await site.post("/supernode/stop")).status_code == 202
    await eventually(lambda: site.site.supernode.state == "stopped")
    assert (await site.get("/supernode"))["pid"] is None
    at_start.unlink(missing_ok=True)
    await superlink_there.disappear()
    await superlink_there.appear()
    await site.start()


async def test_a_start_while_it_runs_is_refused(site: OpenSite) -> None:
    await site.start()
    pid = site.record().pid
    answer = await site.post("/supernode/start", {})
    assert answer.status_code == 409
    assert answer.json()["type"].endswith("#supernode-running")
    assert site.record().pid == pid


async def test_no_clientapp_outlives_its_supernode(site: OpenSite) -> None:
    await site.start()
    pid = site.record().pid
    site.tell_supernode("clientapp 1 m1")
    path = site.folder / "supernode" / "clientapps" / "1" / "m1" / "proc.json"
    await eventually(path.exists)
    clientapp = ProcessRecord.read(path)
    assert clientapp is not None
    assert clientapp.is_alive()
    os.kill(pid, signal.SIGKILL)
    await site.running(not_pid=pid)
    assert not clientapp.is_alive()


async def test_what_earlier_runs_unpacked_is_gone_at_the_next_start(site: OpenSite) -> None:
    unpacked = site.folder / "supernode" / "flwr-home" / "apps" / "old.app.1.0.0.deadbeef"
    unpacked.mkdir(parents=True)
    await site.start()
    assert not unpacked.exists()
    assert unpacked.parents[1].is_dir()


async def test_a_supernode_waits_for_a_superlink_that_is_away(site: OpenSite, superlink_there: Listener) -> None:
    await site.start()
    pid = site.record().pid
    await superlink_there.disappear()
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: "Nothing answers" in (site.site.supernode.describe()["reason"] or ""))
    assert site.site.supernode.state == "starting"
    await superlink_there.appear()
    await site.running(not_pid=pid)


async def test_the_end_of_the_server_stops_the_supernode_and_the_next_start_goes_on(
    sites: SiteMaker, admin: AdminStandIn
) -> None:
    async with sites.open() as first:
        await first.enrol(admin.invitation())
        await first.start(partition_id=0, num_partitions=2)
        record = first.record()
    assert not record.is_alive()
    assert admin.of_kind("session")[-1]["status"] == "stopped"
    assert admin.of_kind("session")[-1]["reason"] == "the client server was stopped"
    async with sites.open() as second:
        await second.running()
        assert (await second.get("/supernode"))["request"]["num_partitions"] == 2
        answer = await second.post("/supernode/stop")
        assert answer.status_code == 202
    async with sites.open() as third:
        assert (await third.get("/supernode"))["state"] == "stopped"


async def test_the_supernode_gets_no_key_and_its_threads_are_bounded(site: OpenSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("SUPABASE_KEY", "secret")
    monkeypatch.setenv("INVITATION", "secret")
    await site.start()
    started = json.loads((site.folder / "supernode" / "started-with.json").read_text())
    environment = started["environment"]
    assert not {"DATABASE_URL", "SUPABASE_KEY", "INVITATION"} & set(environment)
    assert not any("secret" in value or "node-token" in value for value in environment.values())
    assert environment["OMP_NUM_THREADS"] == str(usable_cores())
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment["ESPALIER_WASM_MODULES"] == ""
    assert environment["ESPALIER_DATA_DIRS"] == f"{site.site.settings.espalier_home / 'data'}:/usr/share/datasets"
    argv = started["argv"]
    assert argv[argv.index("--node-config") + 1] == 'node-name="Site A"'
    assert argv[argv.index("--forward-logs") + 1] == "errors"
    assert argv[argv.index("--host") + 1] == "127.0.0.1"


def test_the_supernode_is_told_which_modules_the_site_allows(sites: SiteMaker) -> None:
    digests = ["sha256:" + "a" * 64, "b" * 64]
    settings = sites.settings(wasm_modules=f"{digests[0]}, {digests[1]},")
    assert supernode_environment(settings)["ESPALIER_WASM_MODULES"] == ",".join(digests)


async def test_sites_of_one_home_share_its_cores(site: OpenSite, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, settings = site.site.settings.folder, site.site.settings
    assert folder.count_at_work() == 1
    other, left = (SiteFolder(folder.root.parent / name) for name in ("other", "left"))
    left.prepare()
    left.claim().close()
    other.prepare()
    with folder.claim(), other.claim():
        assert folder.count_at_work() == 2
        monkeypatch.setattr("client_server.launch.usable_cores", lambda: 5)
        assert supernode_environment(settings)["OMP_NUM_THREADS"] == "2"
        monkeypatch.setattr("client_server.launch.usable_cores", lambda: 1)
        assert supernode_environment(settings)["OMP_NUM_THREADS"] == "1"
        assert supernode_environment(settings.model_copy(update={"client_threads": 3}))["OMP_NUM_THREADS"] == "3"
    assert folder.count_at_work() == 1
