"""Which Espalier this is."""

import subprocess
from importlib.metadata import version
from pathlib import Path

VERSION = version("espalier")


def commit() -> str | None:
    """The commit of the checkout that this runs from; None when it was installed from a wheel."""
    folder = Path(__file__).resolve().parent
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


COMMIT = commit()
