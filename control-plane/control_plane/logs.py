"""One logfmt line for each record: time, level, the caller's file:line, request id, message, facts; never a secret."""

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

from control_plane.clock import rfc3339

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request at work, also in the answer's X-Request-ID; kept by asyncio for each task."""

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_BARE = re.compile(r"[^\s\"'=\\]+")
_SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic)(\s+)[\w\-.~+/]{6,}=*"), r"\1\2***"),
    (re.compile(r"\bespalier1\.[\w\-=]+"), "espalier1.***"),
    (re.compile(r"(\w://[^\s:/@]*):[^\s@/]+@"), r"\1:***@"),
    (
        # Begins with the word itself: with what may stand before it, a long word would be read once for each of its letters.
        re.compile(r"(?i)((?:token|secret|password|passwd|api[_-]?key|invitation)[\"']?\s*[=:]\s*[\"']?)[^\s\"',&;}\])]{6,}"),
        r"\1***",
    ),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), "*** private key ***"),
)


def configure(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send all logging of this process, uvicorn's too, as logfmt lines to a stream (default stderr)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Logfmt())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # httpx says each request at INFO, with its URL; ours are said by the server that answers them.
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(max(root.level, logging.WARNING))


class Logfmt(logging.Formatter):
    """Format a record as one line; what `extra` adds becomes key=value, a traceback one quoted value."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line, without secrets."""
        facts: dict[str, object] = {
            "at": rfc3339(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname,
            "where": f"{record.name}:{record.filename}:{record.lineno}",
        }
        if (current := request_id.get()) is not None:
            facts["request_id"] = current
        facts["message"] = record.getMessage()
        facts |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return " ".join(f"{name}={_value(value)}" for name, value in facts.items())


def redact(text: str) -> str:
    """Replace what looks like a bearer token, invitation, password or private key by ***."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _value(value: object) -> str:
    text = redact(value if isinstance(value, str) else str(value)).encode(errors="backslashreplace").decode()
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)
