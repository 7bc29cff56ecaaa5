"""One stack for all modules: a federation of two sites on a home of its own. What a test stops or kills, it brings back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.federation.stack import ROOT, Stack


@pytest.fixture(scope="session")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An APPS_DIR that holds our app and the tests' own."""
    folder = tmp_path_factory.mktemp("apps")
    for app in (ROOT / "flower-app", *(ROOT / "tests" / "apps").iterdir()):
        shutil.copytree(app, folder / app.name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return folder


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, apps: Path) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("espalier")
    stack = Stack(home, apps, sites=2)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
