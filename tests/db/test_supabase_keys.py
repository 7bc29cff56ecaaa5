import base64
import json

import pytest

from db.supabase_keys import why_not


def jwt(claims: object) -> str:
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b"{}", json.dumps(claims).encode(), b"sig"))


@pytest.mark.parametrize("key", ["sb_secret_abc", jwt({"role": "service_role", "iss": "supabase"})])
def test_a_key_for_servers_is_taken(key: str) -> None:
    assert why_not(key) is None


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("sb_publishable_abc", "publishable"),
        (jwt({"role": "anon"}), "role anon"),
        (jwt({"role": "authenticated"}), "role authenticated"),
        (jwt(["no claims"]), "none of Supabase's"),
        ("a.!!!.c", "none of Supabase's"),
        ("postgres://", "none of Supabase's"),
        ("", "none of Supabase's"),
    ],
)
def test_any_other_is_refused_with_the_reason(key: str, reason: str) -> None:
    assert reason in str(why_not(key))
