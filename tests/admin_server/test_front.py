"""How sites are told to reach the REST interface, and whom to trust there."""

import json
from base64 import b64decode, urlsafe_b64decode
from pathlib import Path
from typing import Any

import pytest
from admin_server import front, tls
from admin_server.settings import Settings
from cryptography import x509
from pydantic import ValidationError

from tests.admin_server.admin_app import Server


def made(home: Path, **given: Any) -> Settings:
    return Settings(espalier_home=home, apps_dir=home, **given)


def test_on_loopback_it_speaks_plain_http_and_hands_out_no_ca(tmp_path: Path) -> None:
    settings = made(tmp_path)
    assert (front.certificate(settings), front.ca(settings)) == ({}, None)
    assert not (tmp_path / "tls").exists()


def test_beyond_loopback_it_serves_a_certificate_of_its_own_ca_for_its_public_name(tmp_path: Path) -> None:
    settings = made(tmp_path, host="0.0.0.0", public_url="https://fed.example.org:8443/")
    files = front.certificate(settings)
    ca = front.ca(settings)
    assert ca == tmp_path / "tls" / "ca.crt"
    found = tls.TlsFiles(ca, files["tls_certificate"], files["tls_key"])
    assert tls.serves(found, ["fed.example.org", "localhost", "127.0.0.1"])
    before = found.certificate.read_bytes()
    tls.ensure(tmp_path / "tls", ["another.example.org"])  # the SuperLink's
    assert front.certificate(settings)["tls_certificate"].read_bytes() == before


def test_a_certificate_of_ones_own_is_served_and_its_ca_handed_out_if_said(tmp_path: Path) -> None:
    theirs = tls.ensure(tmp_path / "theirs", ["fed.example.org"])
    given = {"host": "0.0.0.0", "tls_certificate": theirs.certificate, "tls_key": theirs.key}
    settings = made(tmp_path, **given)
    assert front.certificate(settings) == {"tls_certificate": theirs.certificate, "tls_key": theirs.key}
    assert front.ca(settings) is None
    assert front.ca(made(tmp_path, tls_ca=theirs.ca, **given)) == theirs.ca


@pytest.mark.parametrize(
    "url",
    [
        "http://fed.example.org",
        "fed.example.org",
        "https://",
        "https://a/b",
        "ftp://a",
        "https://a:99999",
        "https://a:b",
        "https://u:p@a",
        "https://klinik-münchen.de",
    ],
)
def test_a_public_url_that_no_site_could_use_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValidationError):
        made(tmp_path, public_url=url)


def test_a_ca_file_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(ValidationError, match="tls_ca"):
            made(tmp_path, tls_ca=tmp_path / name)


async def test_an_invitation_says_the_public_url_and_carries_the_ca(server: Server, settings: Settings) -> None:
    theirs = tls.ensure(settings.espalier_home / "theirs")

    async def told() -> dict[str, Any]:
        text = (await server.admin.post("/nodes/invitations")).json()["invitation"].removeprefix("espalier1.")
        fields: dict[str, Any] = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return fields

    plain = await told()
    assert (plain["address"], plain["ca"]) == (str(server.admin.base_url).rstrip("/"), None)
    settings.public_url, settings.tls_ca = "https://fed.example.org", theirs.ca
    public = await told()
    assert public["address"] == "https://fed.example.org"
    assert x509.load_der_x509_certificate(b64decode(public["ca"])) == x509.load_pem_x509_certificate(theirs.ca.read_bytes())
