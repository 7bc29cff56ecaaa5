"""How far this site's files have been reported: moved together with the spool, so that a kill repeats and loses nothing."""

from pathlib import Path

from control_plane.files import read_json, write_atomic
from pydantic import BaseModel


class OpenMessage(BaseModel):
    """A message whose ClientApp has begun and not ended."""

    flower_run_id: str
    message_id: str
    pid: int | None
    since: str
    offset: int = 0


class Position(BaseModel):
    """Offsets in bytes: of activity.jsonl, of the SuperNode's log, and of the output of each message at work."""

    activity: int = 0
    supernode_log: int = 0
    messages: dict[str, OpenMessage] = {}


class _Stored(BaseModel):
    spool_id: str
    seq: int
    before: Position
    after: Position


class Cursor:
    """The position, stored before each line that is spooled, together with the number that this line will get.

    After a kill the spool tells which of the two it was: it has that line, then we stand behind it, or it has not.
    """

    def __init__(self, path: Path, spool_id: str, last_seq: int) -> None:
        """last_seq: the number of the newest line that was ever in the spool."""
        self._path = path
        stored = read_json(path)
        known = None if stored is None else _Stored.model_validate(stored)
        if known is None:
            self.position = Position()
        else:
            has_line = known.spool_id != spool_id or last_seq >= known.seq
            self.position = known.after if has_line else known.before
        self._kept = self.position.model_copy(deep=True)

    def before_line(self, spool_id: str, seq: int) -> None:
        """Store that the line which the spool will number seq brings us from the last position to the present one."""
        after = self.position.model_copy(deep=True)
        stored = _Stored(spool_id=spool_id, seq=seq, before=self._kept, after=after)
        write_atomic(self._path, stored.model_dump_json() + "\n", 0o600)
        self._kept = after

    def rest(self, spool_id: str) -> None:
        """Store the position where nothing had to be reported."""
        if self._kept != self.position:
            self.before_line(spool_id, 0)
