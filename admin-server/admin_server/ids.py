"""What ids look like: ours are UUIDs, Flower's are unsigned 64-bit numbers, both as text."""

import re

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_uuid(text: str) -> bool:
    """Is this what the ids of our rows look like?"""
    return _UUID.fullmatch(text) is not None


def is_uint64(text: str) -> bool:
    """Is this what Flower's ids look like?"""
    return text.isascii() and text.isdigit() and len(text) <= 20 and int(text) < 2**64
