"""What the database answers when it will not.

DatabaseError
    DatabaseUnavailable     no connection, or it broke: the same call may be repeated, here and in all cases below
        ProjectPaused       Supabase has put the project to sleep
        DatabaseFull        its disk is full, and nothing of the call was stored
        DatabaseReadOnly    it takes no writes, and nothing of the call was stored
        KeyRefused          Supabase does not take SUPABASE_KEY
        SchemaMismatch      the schema is older or newer than this code
    MissingFunction         the schema lacks a function: check_schema says what to do
    Refused                 the database understood and said no
        ActiveRunExists     one REST-started run a project
        InvitationRefused   unknown, used or expired
        NodeExists          the external id belongs to a node that was not removed
        Stale               the row is no longer in the state that the caller expects
        NoSuchRow           an id that names nothing
        BadValue            a value that the column, the view or the constraint does not take
    EmbeddedPostgresFailed  the embedded server cannot be started
"""

from collections.abc import Callable


class DatabaseError(Exception):
    """The database failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class DatabaseUnavailable(DatabaseError):
    """The database cannot be reached; try again when it is back."""


class ProjectPaused(DatabaseUnavailable):
    """The Supabase project is paused: restore it in Supabase's dashboard."""


class DatabaseFull(DatabaseUnavailable):
    """The database's disk is full: make room on it, and all goes on by itself; nothing of this was stored."""


class DatabaseReadOnly(DatabaseUnavailable):
    """The database takes no writes: name its primary if it is a standby, make room if Supabase stopped it for a full disk."""


class KeyRefused(DatabaseUnavailable):
    """Supabase refuses SUPABASE_KEY: set the secret key of the project that SUPABASE_URL names."""


class SchemaMismatch(DatabaseUnavailable):
    """The database's schema and this code do not fit."""

    def __init__(self, found: str | None, expected: str) -> None:
        self.found, self.expected = found, expected
        super().__init__(_schema_advice(found, expected))


class MissingFunction(DatabaseError):
    """The database lacks a function that this code calls."""


class Refused(DatabaseError):
    """The database refused the change."""


class ActiveRunExists(Refused):
    """A run that was started by REST is still active in this project."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(f"Run {run_id} is still active in this project.")


class InvitationRefused(Refused):
    """The invitation cannot be redeemed; reason is unknown, used or expired."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"The invitation is {reason}.")


class NodeExists(Refused):
    """A node with this external id is enrolled already; remove it first."""


class Stale(Refused):
    """Somebody else changed the row first."""


class NoSuchRow(Refused):
    """The id names no row."""


class BadValue(Refused):
    """The database does not take this value."""


class EmbeddedPostgresFailed(DatabaseError):
    """The embedded Postgres cannot be started."""


# SQLSTATEs of our own functions (class ES); DETAIL carries the fact that the exception is made of.
_OURS: dict[str, Callable[[str, str], DatabaseError]] = {
    "ES001": lambda message, detail: ActiveRunExists(detail),
    "ES002": lambda message, detail: InvitationRefused(detail),
    "ES003": lambda message, detail: NodeExists(message),
    "ES004": lambda message, detail: Stale(message),
    "ES005": lambda message, detail: NoSuchRow(message),
    "ES006": lambda message, detail: BadValue(message),
}

# Constraints that a caller can run into without a function's own refusal in between.
_CONSTRAINTS: dict[str, Callable[[str], DatabaseError]] = {
    "nodes_project_id_external_id_key": lambda message: NodeExists(),
    "nodes_project_id_flower_node_id_key": lambda message: NodeExists("Another node has this Flower node id."),
}

_NOT_NOW: dict[str, type[DatabaseUnavailable]] = {"53100": DatabaseFull, "25006": DatabaseReadOnly}


def from_sqlstate(code: str, message: str, detail: str | None = None, constraint: str | None = None) -> DatabaseError:
    """Give the exception for what Postgres answered; both doors use it, so both raise alike."""
    if code in _OURS:
        return _OURS[code](message, detail or "")
    if constraint in _CONSTRAINTS:
        return _CONSTRAINTS[constraint](message)
    if code in _NOT_NOW:
        return _NOT_NOW[code]()
    if code[:2] in ("08", "57", "53"):
        return DatabaseUnavailable(message)
    if code == "42883":
        return MissingFunction(message)
    if code == "23503":
        return NoSuchRow(message)
    if code[:2] in ("22", "23") or code in ("42703", "42P01"):
        return BadValue(message)
    return DatabaseError(f"{message} (SQLSTATE {code})")


def unreachable(message: str) -> DatabaseUnavailable:
    """Give the exception for a connection that was not made; a libpq that is refused one tells the words, not the SQLSTATE."""
    return DatabaseFull() if "No space left on device" in message else DatabaseUnavailable(message)


def _schema_advice(found: str | None, expected: str) -> str:
    if found is None:
        return f"The database has no Espalier schema: run `python -m db migrate` (it installs {expected})."
    if found < expected:
        return f"The database has schema {found}, this code needs {expected}: run `python -m db migrate`."
    return f"The database has schema {found}, newer than this code's {expected}: update Espalier."
