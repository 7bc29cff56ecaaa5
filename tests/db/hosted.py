"""The opt-in to a hosted Supabase project: it must be empty at first, and is emptied before each test and at the end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

URL, KEY = "ESPALIER_TEST_SUPABASE_URL", "ESPALIER_TEST_SUPABASE_KEY"
# Children first; what is not named goes along by its foreign key.
TABLES = {
    "models": "id",
    "artifacts": "id",
    "log_lines": "key",
    "log_tails": "stream",
    "events": "key",
    "audit_log": "key",
    "tokens": "sha256",
    "invitations": "id",
    "federated_runs": "id",
    "coordinators": "server_id",
    "nodes": "id",
    "projects": "id",
}


@contextmanager
def claimed() -> Iterator[None]:
    """Take the project for this session. Ends the session where it has rows: the tests would delete them."""
    with _rest() as rest:
        found = rest.get("projects", params={"select": "slug", "limit": 1}).raise_for_status().json()
    if found:
        pytest.exit(f"{URL} names a project with rows in it ({found[0]['slug']}), which these tests would delete.", 1)
    yield
    empty()


def empty() -> None:
    """Delete every row."""
    with _rest() as rest:
        for table, column in TABLES.items():
            rest.delete(table, params={column: "not.is.null"}).raise_for_status()


def asks_for_sql(request: pytest.FixtureRequest) -> bool:
    """Does the test itself look at the database behind the door?"""
    code = request.function.__code__
    return "database_url" in code.co_varnames[: code.co_argcount]


def _rest() -> httpx.Client:
    headers = {"apikey": os.environ[KEY], "Authorization": f"Bearer {os.environ[KEY]}"}
    return httpx.Client(base_url=os.environ[URL] + "/rest/v1/", headers=headers, timeout=30)
