"""What holds for every test of the house: TERM ends a run like Ctrl-C, and a skip needs its line in tests/skips.txt."""

import gc
import signal
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

LISTED = Path(__file__).parent / "tests" / "skips.txt"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Skips(allowed_reasons()), "espalier-skips")
    signal.signal(signal.SIGTERM, end_like_ctrl_c)


def pytest_collection_finish() -> None:
    """Leave what all modules have made by now out of later collections: Flower asks for one with each array record."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Leave out what a module's tests have left behind too: late tests took 15 times as long as alone."""
    yield
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def end_like_ctrl_c(_number: int, _frame: FrameType | None) -> None:
    """Let fixtures stop what they have started: SIGTERM's default would leave servers behind."""
    raise KeyboardInterrupt


def allowed_reasons() -> list[str]:
    """Read the patterns of tests/skips.txt: one reason a line, with * as in a shell; # begins a comment."""
    lines = LISTED.read_text("utf-8").splitlines() if LISTED.exists() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


class Skips:
    """Collect why tests were skipped, and fail the run for a reason that nobody has written down."""

    def __init__(self, allowed: list[str]) -> None:
        self.allowed = allowed
        self.unlisted: dict[str, list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self.unlisted and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for reason, tests in self.unlisted.items():
            terminalreporter.write_line(f"FAILED: skipped without a line in tests/skips.txt: {reason!r} ({tests[0]})", red=True)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not any(fnmatchcase(reason, pattern) for pattern in self.allowed):
            self.unlisted.setdefault(reason, []).append(report.nodeid)
