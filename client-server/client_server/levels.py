"""What a line of a log says: its level, as far as one can tell, and its text without colours."""

import re

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_LEVEL = re.compile(r"(?:^|[\s\[])(DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b\s*[:\]\s]")
_NAMES = {"WARN": "WARNING", "FATAL": "CRITICAL"}
_TRACEBACK = ("Traceback (most recent call last):", "  + Exception Group Traceback", "Fatal Python error:")
_LOOK_AT_CHARS = 60
LONGEST_TEXT_CHARS = 2000


class Levels:
    """Tells the levels of one stream's lines in turn: a traceback is an error from its first line to the exception's."""

    def __init__(self) -> None:
        self._in_traceback = False

    def read(self, line: str) -> tuple[str, str]:
        """Give level and text of the next line: DEBUG, INFO, WARNING, ERROR or CRITICAL; INFO where the line names none."""
        text = _CONTROL.sub("\ufffd", without_colours(line)[:LONGEST_TEXT_CHARS])
        if text.lstrip(" |").startswith(_TRACEBACK) or text.startswith(_TRACEBACK):
            self._in_traceback = True
            return "ERROR", text
        if self._in_traceback:
            # The frames are indented; the first line that is not is the exception itself.
            self._in_traceback = not text or text[0] in " |"
            return "ERROR", text
        found = _LEVEL.search(text[:_LOOK_AT_CHARS])
        return (_NAMES.get(found[1], found[1]) if found else "INFO"), text


def without_colours(line: str) -> str:
    """Take the colours of a terminal out of a line, and the blanks at its end."""
    return _COLOUR.sub("", line).rstrip()


def is_error(level: str) -> bool:
    """Say whether a line of this level is sent where only errors are."""
    return level in ("ERROR", "CRITICAL")
