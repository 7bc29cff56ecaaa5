"""Bearer tokens: made here, stored elsewhere only as their sha256."""

import hashlib
import hmac
import secrets
from pathlib import Path

from control_plane.files import create_once


def new_token() -> str:
    """Make a token of 256 random bits, safe in a header and in a URL."""
    return secrets.token_urlsafe(32)


def sha256_of(token: str) -> str:
    """Give the hexadecimal sha256 under which a token is stored."""
    return hashlib.sha256(token.encode()).hexdigest()


def same(left: str, right: str) -> bool:
    """Compare two tokens, or two of their hashes, in a time that says nothing about where they differ."""
    return hmac.compare_digest(left.encode(), right.encode())


def read_or_create(path: Path) -> str:
    """Read the token in a file (mode 0600), which is made when it is absent; of two that come at once both get the same."""
    if not path.exists():
        create_once(path, new_token() + "\n", 0o600)
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    token = path.read_text().strip()
    if not token:
        raise ValueError(f"{path} is empty: delete it and a new token is made")
    return token
