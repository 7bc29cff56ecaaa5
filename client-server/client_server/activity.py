"""What goes on at this site, as its coordinator is told: deaths and ends of ClientApps, and lines of logs."""

import asyncio
import json
import logging
import time
from typing import Any

from control_plane.logfiles import Tail, rotate_in_place

from client_server.cursor import Cursor, OpenMessage
from client_server.folder import SiteFolder
from client_server.reporter import Reporter
from client_server.settings import ForwardLogs
from client_server.streams import LogLine, Stream

_log = logging.getLogger(__name__)

LINES_A_REPORT = 100
"""With 2000 characters each a report stays below the 1 MiB that a server of ours takes, whatever the characters."""
REPORTS_A_LOOK = 5
EVENTS_A_LOOK = 500
EVENT_LIMIT_BYTES = 4 * 2**20  # an event carries up to 20 lines of a ClientApp
LAST_LINES = 20
REST_EVERY_S = 5.0
"""How often the position is stored while nothing is to be reported: what is read twice then is reported no more than before."""


class Activity:
    """Reads the SuperNode's files each look_every_s and spools what may leave, once, whatever is killed when.

    FORWARD_LOGS decides: none: that a ClientApp ended, and how; errors: also its last 20 lines when it failed, and the lines
    of logs that are errors or tracebacks; all: every line.
    """

    def __init__(
        self, folder: SiteFolder, reporter: Reporter, forward_logs: ForwardLogs, log_cap_bytes: int, look_every_s: float
    ) -> None:
        self._folder = folder
        self._reporter = reporter
        self._forward_logs = forward_logs
        self._log_cap_bytes = log_cap_bytes
        self._look_every_s = look_every_s
        self._supernode_log = folder.supernode / "supernode.log"
        self._rested_at = time.monotonic()
        self.start_over()

    def start_over(self) -> None:
        """Begin where the stored position says: at our start, and when the spool has become another."""
        self._cursor = Cursor(self._folder.forwarded, self._reporter.spool_id, self._reporter.last_seq)
        position = self._cursor.position
        self._events = Tail(self._folder.activity, position.activity, line_limit_bytes=EVENT_LIMIT_BYTES)
        self._log = Stream(self._supernode_log, position.supernode_log, self._forward_logs)
        self._outputs = {one.message_id: self._output(one) for one in position.messages.values()}

    @property
    def message_at_work(self) -> OpenMessage | None:
        """The message that a ClientApp works on; a SuperNode works on one at a time."""
        return next(iter(self._cursor.position.messages.values()), None)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self.look()
            await asyncio.sleep(self._look_every_s)

    def look(self) -> None:
        """Read and spool what is new; at most 500 lines of each file, so that others get their turn."""
        for _ in range(REPORTS_A_LOOK):
            if not self._read_log():
                break
        for message_id in list(self._outputs):
            for _ in range(REPORTS_A_LOOK):
                if not self._read_output(message_id):
                    break
        self._read_events()
        if time.monotonic() - self._rested_at >= REST_EVERY_S:
            self._cursor.rest(self._reporter.spool_id)
            self._rested_at = time.monotonic()

    def finish(self) -> None:
        """Read all that an ended SuperNode left; no message is at work any more."""
        while self._read_log():
            pass
        while self._read_events():
            pass
        for message_id in list(self._outputs):
            self._close_output(message_id)
        self._cursor.rest(self._reporter.spool_id)

    def _read_log(self) -> bool:
        caught_up, lines = self._log.read(LINES_A_REPORT)
        self._cursor.position.supernode_log = self._log.offset
        self._spool_lines(lines, "supernode", None)
        return not caught_up

    def _read_output(self, message_id: str) -> bool:
        stream, message = self._outputs[message_id], self._cursor.position.messages[message_id]
        caught_up, lines = stream.read(LINES_A_REPORT)
        message.offset = stream.offset
        self._spool_lines(lines, "clientapp", message)
        # One that writes faster than we read is cut where its file is four times as long as it may be.
        rotate_in_place(stream.path, self._log_cap_bytes if caught_up else 4 * self._log_cap_bytes)
        return not caught_up

    def _read_events(self) -> bool:
        lines = self._events.read(EVENTS_A_LOOK)
        for line in lines:
            event = _event(line.text)
            if event is not None and event["event"] == "message.started":
                self._open_output(event)
            elif event is not None and event["message_id"] in self._outputs:
                self._close_output(event["message_id"])
            self._cursor.position.activity = line.end_offset
            if event is not None:
                self._spool("clientapp", self._allowed(event))
        return len(lines) == EVENTS_A_LOOK

    def _open_output(self, event: dict[str, Any]) -> None:
        message = OpenMessage(
            flower_run_id=event["flower_run_id"], message_id=event["message_id"], pid=event.get("pid"), since=event.get("at", "")
        )
        self._cursor.position.messages[message.message_id] = message
        self._outputs[message.message_id] = self._output(message)

    def _close_output(self, message_id: str) -> None:
        """Read an output to its end, which comes before the word of the ClientApp's own end."""
        while self._read_output(message_id):
            pass
        message = self._cursor.position.messages[message_id]
        unfinished = self._outputs.pop(message_id).read_unfinished()
        del self._cursor.position.messages[message_id]
        self._spool_lines(unfinished, "clientapp", message)

    def _output(self, message: OpenMessage) -> Stream:
        folder = self._folder.clientapps / message.flower_run_id / message.message_id
        return Stream(folder / "output.log", message.offset, self._forward_logs)

    def _allowed(self, event: dict[str, Any]) -> dict[str, Any]:
        lines = [] if self._forward_logs == "none" else event.get("last_lines") or []
        return {**event, "last_lines": lines[-LAST_LINES:]}

    def _spool_lines(self, lines: list[LogLine], source: str, message: OpenMessage | None) -> None:
        if lines:
            run_id, message_id = (message.flower_run_id, message.message_id) if message else (None, None)
            data = {"flower_run_id": run_id, "source": source, "message_id": message_id, "lines": lines}
            self._spool("log", data, droppable=True)

    def _spool(self, kind: str, data: dict[str, Any], *, droppable: bool = False) -> None:
        """Spool a line together with the position behind it; nothing else of ours is spooled in between."""
        self._cursor.before_line(self._reporter.spool_id, self._reporter.last_seq + 1)
        self._reporter.report(kind, data, droppable=droppable)


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict) and all(isinstance(event.get(key), str) for key in ("event", "flower_run_id", "message_id")):
        return event
    _log.warning("activity.jsonl has a line that is no event: %.200s", line)
    return None
