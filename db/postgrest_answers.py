"""What PostgREST, and the gateway before it, say and want to hear, in the words of db/errors.py and db/door.py."""

import json
import re
from typing import Any

import httpx
from postgrest.exceptions import APIError

from db.errors import DatabaseError, DatabaseUnavailable, KeyRefused, ProjectPaused, from_sqlstate

# What PostgREST finds out by itself has codes of its own: https://docs.postgrest.org/en/stable/references/errors.html
_SQLSTATES = {"PGRST100": "22000", "PGRST102": "22000", "PGRST202": "42883", "PGRST204": "42703", "PGRST205": "42P01"}


async def look_at_status(response: httpx.Response) -> None:
    """Raise for what the status alone says; the gateway's bodies differ, and some are HTML."""
    status = response.status_code
    if status == 401:  # also PostgREST's own answer to anon, who may do nothing here; to others it says 403
        raise KeyRefused
    if status == 540:  # as Supabase documents it; not seen on a hosted project by us
        raise ProjectPaused
    if status == 503 and await _has_sqlstate(response):
        return  # a full disk, which `refusal` tells apart
    if status == 429 or status > 500:  # 503 and 504: PostgREST has no connection to Postgres; 52x: Cloudflare's
        raise DatabaseUnavailable(f"Supabase answers with status {status}.")
    if response.is_success and "json" not in response.headers.get("content-type", ""):
        raise DatabaseError(f"SUPABASE_URL is no Supabase project's: {response.url.host} answers with a page.")


def filter_of(value: Any) -> tuple[str, str]:
    """Give operator and operand of a filter: is null, any of a list, or equal."""
    if value is None:
        return "is", "null"
    if isinstance(value, list | tuple | set | frozenset):
        quoted = (re.sub(r'(["\\])', r"\\\1", str(one)) for one in value)
        return "in", "({})".format(",".join(f'"{one}"' for one in quoted))
    return "eq", str(value)


async def _has_sqlstate(response: httpx.Response) -> bool:
    """Does Postgres itself say why? PostgREST answers 503 to its classes 08 and 53."""
    try:
        told = json.loads(await response.aread())
    except ValueError:
        return False
    return isinstance(told, dict) and re.fullmatch(r"[0-9A-Z]{5}", str(told.get("code"))) is not None


def refusal(error: APIError) -> DatabaseError:
    """Give the exception for an error that PostgREST tells as JSON: by its SQLSTATE, and the constraint in its message."""
    code, message = error.code or "", error.message or "Supabase refuses without a word."
    if re.fullmatch(r"\d{3}|", code):  # the client found no JSON of PostgREST's and gives the HTTP status
        return DatabaseError(f"SUPABASE_URL is no Supabase project's: it answers with status {code} and no JSON.")
    named = re.search(r'constraint "([^"]+)"', message)
    return from_sqlstate(_SQLSTATES.get(code, code), message, error.details, named[1] if named else None)
