"""Enrolment: an invitation becomes an identity, wholly or not at all."""

import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from tests.client_server.conftest import OpenSite, SiteMaker, eventually
from tests.client_server.stand_ins import AdminStandIn


def files(folder: Path) -> dict[str, str]:
    """Give the identity's files by name, each with its content."""
    names = ("identity.json", "node.key", "node.pub", "node.token", "ca.crt")
    return {name: (folder / name).read_text() for name in names if (folder / name).exists()}


async def test_enrolment_keeps_a_p384_key_in_openssh_format_and_the_ids(sites: SiteMaker, admin: AdminStandIn) -> None:
    async with sites.open() as site:
        answer = await site.post("/enrolment", {"invitation": admin.invitation()})
        assert answer.status_code == 201
        assert answer.json() == {"node_id": "6f9619ff-8b86-d011-b42d-00c04fc964ff", "flower_node_id": "4711"}
        key = load_ssh_private_key((site.folder / "node.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP384R1)
        sent = admin.enrolled[0]
        assert sent["external_id"] == "site-a"
        assert sent["display_name"] == "Site A"
        assert load_ssh_public_key(sent["public_key"].encode()) == key.public_key()
        for name in files(site.folder):
            assert stat.S_IMODE((site.folder / name).stat().st_mode) == 0o600
        health = await site.get("/health")
        assert health["enrolment"] == {"state": "enrolled", "problem": None}
        assert health["project_slug"] == "fed-project"


async def test_key_and_ids_stay_over_a_restart_and_no_second_invitation_is_used(sites: SiteMaker, admin: AdminStandIn) -> None:
    async with sites.open() as site:
        await site.enrol(admin.invitation())
        before = files(site.folder)
    async with sites.open(invitation=admin.invitation("secret-2")) as site:
        assert files(site.folder) == before
        refused = await site.post("/enrolment", {"invitation": admin.invitation("secret-2")})
        assert refused.status_code == 409
        assert refused.json()["type"].endswith("#already-enrolled")
    assert admin.secrets["secret-2"] == "unused"
    assert files(sites.folder) == before


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"secret": "secret-old"}, 410, "invitation-expired"),
    ({"secret": "nobody's"}, 404, "invitation-unknown"),
    ({"address": "http://coordinator.example:8000"}, 422, "invitation-refused"),
    ({"address": "ftp://127.0.0.1"}, 422, "invitation-refused"),
    ({"address": "http://127.0.0.1:port"}, 422, "invitation-refused"),
    ({"address": None}, 422, "invitation-refused"),
    ({"secret": ""}, 422, "invitation-refused"),
    ({"ca": "not base64!"}, 422, "invitation-refused"),
    ({"ca": "AAAA"}, 422, "invitation-refused"),
    ({"address": "http://127.0.0.1:1"}, 424, "admin-unreachable"),
    ({"secret": "secret-early"}, 424, "admin-refused"),
]
GARBLED = ("hello", "espalier1.", "espalier1.%%%", "espalier1.aGVsbG8", "espalier1.W10", "espalier2.e30", "e" * 20_001)


async def test_a_refused_invitation_is_a_precise_problem_and_changes_nothing(
    sites: SiteMaker, admin: AdminStandIn, subtests: pytest.Subtests
) -> None:
    refused = [(admin.invitation(**change), status, anchor) for change, status, anchor in REFUSED]
    refused += [(text, 422, "invitation-refused" if len(text) < 20_000 else "invalid") for text in GARBLED]
    async with sites.open() as site:
        for invitation, status, anchor in refused:
            with subtests.test(anchor, invitation=invitation):
                answer = await site.post("/enrolment", {"invitation": invitation})
                assert answer.status_code == status, answer.text
                assert answer.json()["type"].endswith(f"#{anchor}")
                assert len(invitation) < 20 or invitation not in answer.text
                assert files(site.folder) == {}
        await site.enrol(admin.invitation())


async def test_a_used_invitation_is_refused(sites: SiteMaker, admin: AdminStandIn) -> None:
    admin.secrets["secret-1"] = "used"
    async with sites.open() as site:
        answer = await site.post("/enrolment", {"invitation": admin.invitation()})
        assert answer.status_code == 409
        assert answer.json()["type"].endswith("#invitation-used")


async def test_an_invitation_broken_over_lines_by_a_mail_program_is_read(sites: SiteMaker, admin: AdminStandIn) -> None:
    text = admin.invitation()
    async with sites.open() as site:
        await site.enrol(f"  {text[:40]}\r\n {text[40:]}\n")


async def test_an_invitation_in_the_settings_waits_for_the_admin_server(
    sites: SiteMaker, admin: AdminStandIn, tmp_path: Path
) -> None:
    file = tmp_path / "invitation"
    file.write_text(admin.invitation() + "\n")
    await admin.listener.disappear()
    async with sites.open(invitation_file=file) as site:
        await eventually(lambda: site.site.enrolment.problem)
        assert "does not answer" in (await site.get("/health"))["enrolment"]["problem"]
        await admin.listener.appear()
        await eventually(lambda: site.site.enrolment.state == "enrolled")
        await eventually(lambda: admin.heartbeats)


async def test_an_expired_invitation_in_the_settings_is_told_and_another_may_follow(
    sites: SiteMaker, admin: AdminStandIn
) -> None:
    async with sites.open(invitation=admin.invitation("secret-old")) as site:
        await eventually(lambda: site.site.enrolment.state == "refused")
        assert "expired" in (await site.get("/health"))["enrolment"]["problem"]
        await site.enrol(admin.invitation())
        assert (await site.get("/health"))["enrolment"] == {"state": "enrolled", "problem": None}


async def test_a_node_that_was_removed_while_it_did_not_listen_finds_out(site: OpenSite, admin: AdminStandIn) -> None:
    await site.start()
    await admin.listener.disappear()
    admin.revoked = True
    await admin.listener.appear()
    await eventually(lambda: site.site.enrolment.state == "removed")
    await eventually(lambda: site.site.supernode.state == "stopped")
    assert (await site.get("/supernode"))["flower_node_id"] is None
    await site.enrol(admin.invitation("secret-2"))
    await site.start()


async def test_an_admin_server_that_fails_is_no_removal(site: OpenSite, admin: AdminStandIn) -> None:
    await site.start()
    admin.status_of_all = 503
    admin.want()
    refused = admin.refused
    await eventually(lambda: admin.refused > refused + 20)
    assert site.site.enrolment.state == "enrolled"
    assert site.site.supernode.state == "running"


async def test_a_removed_node_stops_its_supernode_and_may_enrol_anew_with_a_new_key(site: OpenSite, admin: AdminStandIn) -> None:
    await site.start()
    before = files(site.folder)
    admin.remove_node()
    await eventually(lambda: site.site.supernode.state == "stopped")
    described = await site.get("/supernode")
    assert described["reason"] == "the coordinator removed this node"
    assert (await site.get("/health"))["enrolment"]["state"] == "removed"
    refused = await site.post("/supernode/start", {})
    assert refused.status_code == 409
    assert refused.json()["type"].endswith("#node-removed")
    await site.enrol(admin.invitation("secret-2"))
    assert files(site.folder)["node.key"] != before["node.key"]
    await site.start()
    assert (await site.get("/supernode"))["flower_node_id"] == "4712"
    await eventually(lambda: len(admin.applied) == 2)
