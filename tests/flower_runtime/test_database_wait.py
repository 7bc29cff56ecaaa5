"""How long a request to SuperLink waits for its database, by Flower itself and under our launcher."""

import subprocess
import sys
from pathlib import Path

LOCK_WAIT = """
import sys
if "ours" in sys.argv:
    from flower_runtime.superlink import wait_for_the_database
    wait_for_the_database()
from flwr.supercore.sql_mixin import SqlMixin
database = SqlMixin(sys.argv[1])
database.initialize()
print(*database.query("PRAGMA busy_timeout")[0].values())
"""


def lock_wait_ms(database: Path, *who: str) -> int:
    said = subprocess.run(
        [sys.executable, "-c", LOCK_WAIT, str(database), *who], capture_output=True, text=True, check=True, timeout=60
    )
    return int(said.stdout)


def test_flowers_own_wait_is_shorter_than_what_large_messages_take(tmp_path: Path) -> None:
    assert lock_wait_ms(tmp_path / "state.db") < 60_000, "then ours is not needed any more"


def test_our_superlink_waits_for_a_minute(tmp_path: Path) -> None:
    assert lock_wait_ms(tmp_path / "state.db", "ours") == 60_000
