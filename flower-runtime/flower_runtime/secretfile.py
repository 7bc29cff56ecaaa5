"""Files that hold a secret for a moment: a task's token, a node's SuperExec secret."""

import os
from pathlib import Path


def write_secret(path: Path, secret: bytes) -> None:
    """Make the file anew, readable by its owner alone from its first byte on."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
