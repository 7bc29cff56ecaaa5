"""Requests that once made a 500: each is refused, and says why."""

import base64
import json
from typing import Any

import pytest

from tests.client_server.conftest import OpenSite, SiteMaker

TOLD = {"address": "http://127.0.0.1:1", "ca": None, "secret": "x", "expires_at": "2030-01-01T00:00:00Z"}


def invitation(text: str) -> str:
    return "espalier1." + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize("text", ["[" * 5000, json.dumps(TOLD | {"secret": "é"}), json.dumps(TOLD | {"secret": "a\nb"})])
async def test_a_garbled_invitation_is_refused(sites: SiteMaker, text: str) -> None:
    async with sites.open() as site:
        answer = await site.post("/enrolment", {"invitation": invitation(text)})
        assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (422, "invitation-refused")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"certificates_path": "~nobody-at-all"}, 422),
        ({"certificates_path": "\0"}, 422),
        ({"certificates_path": "/" + "x" * 400}, 422),
        ({"clientappio_api_address": "127.0.0.1:" + "9" * 5000}, 422),
        ({"extra_args": ["--trusted-entities", "x" * 400]}, 422),
        ({"superlink_address": "\0:1"}, 422),
        ({"superlink_address": "a..b:1"}, 424),
        ({"superlink_address": "a" * 280 + ":1"}, 424),
    ],
)
async def test_a_start_with_a_name_that_nothing_can_have_is_refused(site: OpenSite, body: dict[str, Any], status: int) -> None:
    answer = await site.post("/supernode/start", body)
    assert answer.status_code == status, answer.text
    assert (await site.get("/supernode"))["state"] == "stopped"
