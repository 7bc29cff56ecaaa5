"""The audit log while the database is away: what was done is written later, in order."""

import asyncio
from typing import Any, cast

import pytest
from admin_server import audit
from admin_server.audit import Audit
from control_plane.auth import Principal

from db.errors import DatabaseUnavailable
from db.store import Store

ADMIN = Principal("admin", "somebody")


class Log:
    """An audit log that can be away, and slow."""

    def __init__(self) -> None:
        self.is_away = True
        self.lines: list[str] = []

    async def audit(self, project_id: str, actor: str, action: str, subject: str | None, facts: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        if self.is_away:
            raise DatabaseUnavailable("away")
        self.lines.append(action)


async def test_what_waits_is_written_in_order_and_a_line_that_is_being_written_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "KEPT", 3)
    log = Log()
    told = Audit(cast(Store, log), "p")
    for number in range(3):
        await told(ADMIN, f"thing.{number}")
    with pytest.raises(DatabaseUnavailable):
        await told.tell()
    log.is_away = False
    telling = asyncio.create_task(told.tell())
    await asyncio.sleep(0)  # the first line is on its way, and the queue was full
    await told(ADMIN, "thing.3")
    await telling
    assert log.lines == [f"thing.{number}" for number in range(4)]
    await told(ADMIN, "thing.4")
    assert log.lines[-1] == "thing.4"


async def test_a_line_does_not_overtake_one_that_is_on_its_way() -> None:
    log = Log()
    told = Audit(cast(Store, log), "p")
    await told(ADMIN, "first")
    log.is_away = False
    telling = asyncio.create_task(told.tell())
    await asyncio.sleep(0)
    await told(ADMIN, "second")
    await telling
    assert log.lines == ["first", "second"]


async def test_what_still_waits_at_the_end_is_written_then_or_said_to_be_lost(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    told = Audit(cast(Store, log), "p")
    await told(ADMIN, "deed")
    await told.close()
    assert "lacks 1 lines for good" in caplog.records[-1].getMessage()
    log.is_away = False
    await told.close()
    assert log.lines == ["deed"]


async def test_each_line_that_waits_is_in_the_servers_log(caplog: pytest.LogCaptureFixture) -> None:
    told = Audit(cast(Store, Log()), "p")
    for number in range(3):
        await told(ADMIN, f"thing.{number}")
    assert [f"thing.{number}" in record.getMessage() for number, record in enumerate(caplog.records)] == [True] * 3
