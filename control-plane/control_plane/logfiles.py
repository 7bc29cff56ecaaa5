"""Log files that children append to: read line by line from an offset, rotated in place."""

import codecs
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from control_plane.files import open_plain

LINE_LIMIT_BYTES = 65_536
_CHUNK_BYTES = 262_144
_HEAD_BYTES = 256


@dataclass(frozen=True)
class Line:
    """A line without its end; end_offset is where the next one begins, which is what to store."""

    end_offset: int
    text: str


class Tail:
    """Read on in a file that somebody else appends to.

    offset: where to go on; store Line.end_offset and give it back after a restart. A last line without its newline is not
    given yet. A file that was truncated in place or replaced is read from its beginning. Invalid UTF-8 is replaced. A line
    longer than line_limit_bytes comes in pieces of at most that size, cut between characters, so that no offset is ever
    inside one; a file of records wants a limit that no record reaches.
    """

    def __init__(self, path: Path, offset: int = 0, *, line_limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self.path = path
        self._limit = line_limit_bytes
        self.offset = offset
        self._head = b""

    def read(self, max_lines: int = 1000) -> list[Line]:
        """Give the next complete lines, at most max_lines; none when there is nothing new or no file."""
        file = open_plain(self.path)
        if file is None:
            return []
        lines: list[Line] = []
        with file:
            self._notice_truncation(file.fileno())
            file.seek(self.offset)
            while len(lines) < max_lines:
                raw = file.readline(self._limit)
                if not raw.endswith(b"\n"):
                    if len(raw) < self._limit:
                        break
                    raw = _whole_characters(raw)
                    file.seek(self.offset + len(raw))
                self.offset += len(raw)
                lines.append(Line(self.offset, _text(raw)))
        return lines

    def _notice_truncation(self, descriptor: int) -> None:
        """Begin again when the file is shorter than our offset, or starts with other bytes than it did."""
        head = os.pread(descriptor, _HEAD_BYTES, 0)
        if os.fstat(descriptor).st_size < self.offset or not head.startswith(self._head):
            self.offset = 0
        self._head = head


def last_lines(path: Path, n: int = 20, since_offset: int = 0) -> list[str]:
    """Give the last n lines of a file, an incomplete last one too; [] when there is no file.

    since_offset: leaves out what came before, unless the file has become shorter than that. Looks at the last 256 KiB
    only; each line is cut at 2000 characters, since it travels in errors and rows.
    """
    file = open_plain(path)
    if file is None:
        return []
    with file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _CHUNK_BYTES, since_offset if since_offset <= size else 0))
        raw = file.read(_CHUNK_BYTES)
    return [_text(line)[:2000] for line in raw.rstrip(b"\r\n").split(b"\n")[-n:]] if raw.strip() else []


def rotate_in_place(path: Path, max_bytes: int) -> bool:
    """Move a file's content to `<path>.1` and truncate it, when it is larger than max_bytes; False when it is not.

    The writer goes on with the same open file (O_APPEND). What it writes between copy and truncation is lost: a few
    microseconds for a log, so never do this to a journal.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_size <= max_bytes:
        return False
    shutil.copyfile(path, path.with_name(path.name + ".1"))
    os.truncate(path, 0)
    return True


def _text(raw: bytes) -> str:
    return raw.removesuffix(b"\n").removesuffix(b"\r").decode(errors="replace").replace("\0", "\ufffd")


def _whole_characters(raw: bytes) -> bytes:
    """Cut off the beginning of a UTF-8 character at the end."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(raw)
    return raw[: len(raw) - len(decoder.getstate()[0])]
