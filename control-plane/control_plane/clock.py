"""The time, as records and logs write it."""

from datetime import UTC, datetime


def now() -> str:
    """Give the time as RFC 3339 in UTC, with milliseconds: 2026-11-22T08:11:00.123Z."""
    return rfc3339(datetime.now(UTC))


def rfc3339(moment: datetime) -> str:
    """Write an aware moment as RFC 3339 in UTC, with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
