"""The opt-in to a hosted Supabase project: it must be empty at first, and is emptied before each test and at the end."""

import os

import httpx
import pytest

URL, KEY = "ESPALIER_TEST_SUPABASE_URL", "ESPALIER_TEST_SUPABASE_KEY"
# Children first. What a test leaves there has an owner in one of these: the rest goes along by its foreign key.
TABLES = {"models": "id", "artifacts": "id", "log_lines": "key", "log_tails": "stream", "events": "key", "audit_log": "key",
          "tokens": "sha256", "invitations": "id", "federated_runs": "id", "coordinators": "server_id", "nodes": "id",
          "projects": "id"}  # fmt: skip
_ours = False


def empty(request: pytest.FixtureRequest) -> None:
    """Delete all rows of the project. Fails where it has rows that this session did not make, and skips what needs SQL."""
    global _ours
    if _asks_for_sql(request):
        pytest.skip("a hosted project gives this test no SQL connection")
    headers = {"apikey": os.environ[KEY], "Authorization": f"Bearer {os.environ[KEY]}"}
    with httpx.Client(base_url=os.environ[URL] + "/rest/v1/", headers=headers, timeout=30) as client:
        if not _ours:
            found = client.get("projects", params={"select": "slug", "limit": 1}).raise_for_status().json()
            if found:
                pytest.exit(f"{URL} names a project with rows in it ({found[0]['slug']}); these tests would delete them.", 1)
            _ours = True
        for table, column in TABLES.items():
            client.delete(table, params={column: "not.is.null"}).raise_for_status()


def _asks_for_sql(request: pytest.FixtureRequest) -> bool:
    return "database_url" in request.function.__code__.co_varnames[: request.function.__code__.co_argcount]
