"""What an ended SuperNode may leave behind: ClientApps that train on, and every app that it ever unpacked."""

import logging
import shutil
import signal
from pathlib import Path

from control_plane.identity import ProcessRecord

_log = logging.getLogger(__name__)


def kill_clientapps(clientapps: Path) -> list[int]:
    """Kill every ClientApp of this site that still lives, with its group, and give their pids."""
    killed = []
    for path in clientapps.glob("*/*/proc.json"):
        if (path.parent / "exit.json").exists():
            continue
        record = ProcessRecord.read(path)
        if record is not None and record.signal_group(signal.SIGKILL):
            _log.warning("killed a ClientApp that outlived its SuperNode", extra={"pid": record.pid, "folder": str(path.parent)})
            killed.append(record.pid)
    return killed


def remove_unpacked_apps(flwr_home: Path) -> None:
    """Remove the apps that Flower unpacked, one folder for each version that ever ran; it unpacks again what runs again."""
    shutil.rmtree(flwr_home / "apps", ignore_errors=True)
