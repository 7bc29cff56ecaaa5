"""The spool of reports: where its numbering stands, and how it begins anew."""

import shutil
from pathlib import Path

from control_plane.spool import Spool

_MOVED_AT_ONCE = 1000


class ReportSpool(Spool):
    """A spool that says how far it has counted."""

    @property
    def last_seq(self) -> int:
        """The number of the newest line that was ever written, 0 for none."""
        last: int = self._next_seq - 1
        return last


def open_spool(folder: Path, cap_bytes: int) -> ReportSpool:
    """Open the spool of a folder; a renumbering that a kill interrupted is finished first."""
    spool = ReportSpool(folder, cap_bytes)
    return renumber(spool, cap_bytes) if _beside(folder).exists() else spool


def empty_spool(spool: ReportSpool, cap_bytes: int) -> ReportSpool:
    """Replace a spool by an empty one of another id."""
    spool.close()
    shutil.rmtree(spool.folder)
    return ReportSpool(spool.folder, cap_bytes)


def renumber(spool: ReportSpool, cap_bytes: int) -> ReportSpool:
    """Replace a spool by one of another id that has the same waiting lines, from number 1 on."""
    anew = ReportSpool(_beside(spool.folder), cap_bytes)
    while lines := spool.pending(_MOVED_AT_ONCE):
        for line in lines:
            anew.append(line["kind"], line["data"], droppable=line["kind"] == "log")
        spool.acknowledge(lines[-1]["seq"])
    spool.close()
    anew.close()
    shutil.rmtree(spool.folder)
    anew.folder.rename(spool.folder)
    return ReportSpool(spool.folder, cap_bytes)


def _beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.anew")
