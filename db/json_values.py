"""Values on their way into jsonb and out of it, the same for both doors."""

import json
import re
from datetime import UTC, datetime
from typing import Any

from db.door import Row

# What json.dumps writes but jsonb refuses: NUL (22P05) and halves of surrogate pairs (22P02).
_UNSTORABLE = re.compile(r"\\u(0000|d[89a-f][0-9a-f]{2})", re.IGNORECASE)
_HALVES = re.compile("[\x00\ud800-\udfff]")
_DEEPEST = 64  # pydantic gives up writing an answer at some 250, and with one such row every list that it is in would fail
_ROWS_WITHIN = ("events", "lines")


def storable(value: Any) -> Any:
    """Give a value that jsonb takes: NUL and lone surrogates become U+FFFD; what is no JSON, or nested too deep, becomes
    {"unstorable": why}.

    One bad value in a batch must not make the whole batch fail; the SQL function refuses it by its content.
    """
    try:
        text = json.dumps(value, allow_nan=False)
        if text.count("[") + text.count("{") > _DEEPEST and _is_deeper(value, _DEEPEST):
            raise ValueError(f"nested more than {_DEEPEST} deep")
    except (TypeError, ValueError, RecursionError) as error:
        seq = value.get("seq") if isinstance(value, dict) else None
        return {"unstorable": str(error)} | ({"seq": seq} if isinstance(seq, int) else {})
    return _cleaned(value) if _UNSTORABLE.search(text) else value


def dated(row: Row) -> Row:
    """Turn the times of a row, and of the rows in its `events` and `lines`, into aware datetimes in UTC."""
    for name, value in row.items():
        if isinstance(value, str) and (name.endswith("_at") or name in ("at", "lease_until")):
            row[name] = datetime.fromisoformat(value).astimezone(UTC)
        elif name in _ROWS_WITHIN and isinstance(value, list):
            for within in value:
                dated(within)
    return row


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list | tuple):
        return False
    within = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(one, levels - 1) for one in within)


def _cleaned(value: Any) -> Any:
    match value:
        case str():
            return _HALVES.sub("\ufffd", value)
        case dict():
            return {_cleaned(key): _cleaned(within) for key, within in value.items()}
        case list() | tuple():
            return [_cleaned(within) for within in value]
        case _:
            return value
