"""kill -9 of the client server, which is a real process here: what it supervised goes on, what it had to say is said once."""

import asyncio
import dataclasses
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from control_plane.identity import ProcessRecord

from tests.client_server.conftest import QUICK, SiteMaker, eventually
from tests.client_server.stand_ins import AdminStandIn

PROGRAM = Path(__file__).with_name("site_process.py")


class SiteProcess:
    """A client server that can be killed and started again on the same folder."""

    def __init__(self, sites: SiteMaker, port: int) -> None:
        self.sites = sites
        self.folder = sites.folder
        self.port = port
        self.child: asyncio.subprocess.Process | None = None
        commands = {"supernode": sites.commands.supernode, "deactivate": sites.commands.deactivate}
        self._environment = os.environ | {
            "STAND_INS": json.dumps({**commands, "patience": dataclasses.asdict(QUICK)}),
            "ESPALIER_HOME": str(sites.home),
            "CLIENT_PORT": str(port),
            "PARTICIPANT_NODE_ID": "site-a",
            "FORWARD_LOGS": "all",
        }

    async def start(self) -> None:
        with (self.sites.home / "server.log").open("ab") as log:
            self.child = await asyncio.create_subprocess_exec(
                sys.executable, str(PROGRAM), env=self._environment, stdout=log, stderr=log, cwd=Path(__file__).parents[2]
            )
        for _ in range(1000):
            assert self.child.returncode is None, (self.sites.home / "server.log").read_text()
            try:
                await self.ask("GET", "/health")
                return
            except httpx.TransportError:
                await asyncio.sleep(0.02)
        raise AssertionError("it does not answer")

    async def second(self) -> tuple[int | None, str]:
        """Start another client server on the same folder, and give its exit code and what it said last."""
        environment = self._environment | {"CLIENT_PORT": "0"}
        child = await asyncio.create_subprocess_exec(
            sys.executable, str(PROGRAM), env=environment, stderr=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        _, error = await child.communicate()
        return child.returncode, error.decode().strip().splitlines()[-1]

    async def end(self, number: signal.Signals) -> int:
        assert self.child is not None
        self.child.send_signal(number)
        return await self.child.wait()

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        path_is_open = path == "/health"
        headers = {} if path_is_open else {"Authorization": f"Bearer {(self.folder / 'site.token').read_text().strip()}"}
        async with httpx.AsyncClient(headers=headers, trust_env=False) as client:
            response = await client.request(method, f"http://127.0.0.1:{self.port}{path}", json=body)
        assert response.is_success, response.text
        return response.json()

    async def state(self) -> dict[str, Any]:
        described: dict[str, Any] = await self.ask("GET", "/supernode")
        return described

    async def until(self, state: str) -> dict[str, Any]:
        for _ in range(500):
            described = await self.state()
            if described["state"] == state:
                return described
            await asyncio.sleep(0.02)
        raise AssertionError(f"{described} is not {state}")

    def do(self, *words: str) -> None:
        part = self.folder / "supernode" / "do.part"
        part.write_text("".join(f"{word}\n" for word in words))
        part.rename(self.folder / "supernode" / "do")


@pytest.fixture
async def process(sites: SiteMaker, admin: AdminStandIn, unused_tcp_port: int) -> AsyncIterator[SiteProcess]:
    started = SiteProcess(sites, unused_tcp_port)
    await started.start()
    await started.ask("POST", "/enrolment", {"invitation": admin.invitation()})
    await started.ask("POST", "/supernode/start", {})
    await started.until("running")
    yield started
    assert started.child is not None
    if started.child.returncode is None:
        await started.end(signal.SIGTERM)


async def test_the_next_life_finds_the_same_supernode_and_term_stops_it(process: SiteProcess, admin: AdminStandIn) -> None:
    before = await process.state()
    await process.end(signal.SIGKILL)
    os.kill(before["pid"], 0)
    await process.start()
    after = await process.until("running")
    assert (after["pid"], after["session_id"], after["restarts"]) == (before["pid"], before["session_id"], 0)
    assert {session for session, _ in admin.statuses()} == {before["session_id"]}
    assert await process.second() == (2, f"another client server is at work in {process.folder}")
    record = ProcessRecord.read(process.folder / "supernode" / "proc.json")
    assert record is not None
    assert record.is_alive()
    assert await process.end(signal.SIGTERM) == 0
    assert not record.is_alive()


async def test_a_supernode_that_was_still_starting_is_found_again_too(process: SiteProcess, admin: AdminStandIn) -> None:
    await process.ask("POST", "/supernode/stop")
    await process.until("stopped")
    (process.folder / "supernode" / "at-start").write_text("hang 4\n")
    await process.ask("POST", "/supernode/start", {})
    await eventually((process.folder / "supernode" / "proc.json").exists)
    before = await process.state()
    assert before["state"] == "starting"
    await process.end(signal.SIGKILL)
    await process.start()
    after = await process.until("running")
    assert (after["pid"], after["session_id"]) == (before["pid"], before["session_id"])


async def test_a_supernode_that_died_meanwhile_is_lost_and_started_again(
    process: SiteProcess, sites: SiteMaker, admin: AdminStandIn
) -> None:
    before = await process.state()
    await process.end(signal.SIGKILL)
    os.kill(before["pid"], signal.SIGKILL)
    await process.start()
    after = await process.until("running")
    assert after["pid"] != before["pid"]
    assert len(sites.deactivated()) == 1
    await eventually(lambda: len(admin.statuses()) == 5)
    assert admin.statuses()[2] == (before["session_id"], "lost")


async def test_every_line_is_reported_once_and_in_order_over_kills_and_outages(process: SiteProcess, admin: AdminStandIn) -> None:
    said = 0

    def say(count: int) -> None:
        nonlocal said
        process.do(*(f"say line {number}" for number in range(said, said + count)))
        said += count

    def heard() -> list[str]:
        return [text for text in admin.texts("supernode") if text.startswith("line ")]

    say(50)
    await eventually(lambda: heard())
    await process.end(signal.SIGKILL)
    await eventually(lambda: not (process.folder / "supernode" / "do").exists())
    say(50)
    await admin.listener.disappear()
    await process.start()
    await eventually(lambda: not (process.folder / "supernode" / "do").exists())
    say(700)
    await asyncio.sleep(0.05)
    await process.end(signal.SIGKILL)
    await process.start()
    admin.swallow_answers = 2
    await admin.listener.appear()
    await eventually(lambda: len(heard()) >= said)
    await process.end(signal.SIGTERM)
    assert heard() == [f"line {number}" for number in range(said)]
    seqs = [line["seq"] for line in admin.lines]
    assert seqs == list(range(1, len(seqs) + 1))
