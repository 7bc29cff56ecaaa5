"""Telling Supabase's kinds of keys apart by their looks, before anything is sent."""

import base64
import json


def why_not(key: str) -> str | None:
    """Say why a key cannot be a server's; None for a secret key, and for a JWT whose role is service_role.

    Source: Supabase's docs, "Understanding API keys": sb_publishable_… and anon's JWT are for pages, sb_secret_… and
    service_role's JWT for servers.
    """
    if key.startswith("sb_secret_"):
        return None
    if key.startswith("sb_publishable_"):
        return "it is the publishable key, which pages use and which may do nothing here: set the secret key (sb_secret_…)"
    role = _role(key)
    if role == "service_role":
        return None
    if role is not None:
        return f"it is a key of the role {role}: set the secret key (sb_secret_…) or the service_role key"
    return "it looks like none of Supabase's keys: set the secret key (sb_secret_…) or the service_role key"


def _role(key: str) -> str | None:
    """Read the role out of a JWT without checking its signature: Supabase does that."""
    parts = key.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    role = claims.get("role") if isinstance(claims, dict) else None
    return role if isinstance(role, str) else None
