"""A child that begins only once it is on record."""

import logging
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from control_plane.identity import ProcessRecord

_log = logging.getLogger(__name__)

# The child reads a line before it becomes what it should be. When we die before proc.json is written, it reads end-of-file and
# leaves: no process of ours is ever without its record. exec keeps the pid and the start time.
_GATE = 'read -r _ && exec "$@" </dev/null'


def start_at_gate(
    name: str, argv: Sequence[str], env: Mapping[str, str], log_path: Path, record_path: Path, cwd: Path | None = None
) -> tuple[subprocess.Popen[bytes], ProcessRecord]:
    """Start a child in a session of its own, its output appended to a log file, and write its record.

    env is the whole environment. A program that does not exist is an exit code 127, with a line in the log.
    """
    log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            ["/bin/sh", "-c", _GATE, name, *argv],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    assert child.stdin is not None
    try:
        record = ProcessRecord.of(child.pid, name)
        assert record is not None, "a child that nobody waited for is there, be it as a zombie"
        record.write(record_path)
        try:
            child.stdin.write(b"go\n")
            child.stdin.close()
        except BrokenPipeError:
            _log.warning("%s ended at its gate", name)
    except BaseException:
        child.kill()
        child.wait()
        child.stdin.close()
        raise
    return child, record
