"""The coordinator's certificates: good for the names that are dialled, made anew when one is missing, the CA kept."""

import asyncio
import ssl
from pathlib import Path

import pytest
from admin_server import tls
from cryptography import x509


async def shake_hands(files: tls.TlsFiles, ca: Path, name: str) -> str:
    """Serve one TLS connection with the files, dial it by a name trusting only ca, and give what was said."""
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(files.certificate, files.key)

    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0, ssl=serving)
    async with server:
        port = server.sockets[0].getsockname()[1]
        trusting = ssl.create_default_context(cafile=ca)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname=name)
        said = (await reader.readline()).decode().strip()
        writer.close()
        await writer.wait_closed()
    return said


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "fed.example.org", "10.1.2.3"])
async def test_the_certificate_is_good_for_every_name(tmp_path: Path, name: str) -> None:
    files = tls.ensure(tmp_path, ["fed.example.org", "10.1.2.3"])
    assert await shake_hands(files, files.ca, name) == "hello"


async def test_another_ca_is_not_trusted(tmp_path: Path) -> None:
    ours, other = tls.ensure(tmp_path / "a"), tls.ensure(tmp_path / "b")
    with pytest.raises(ssl.SSLCertVerificationError):
        await shake_hands(ours, other.ca, "localhost")


def test_a_second_start_changes_nothing_and_a_new_name_only_the_server_certificate(tmp_path: Path) -> None:
    files = tls.ensure(tmp_path)
    before = {path: path.read_bytes() for path in (files.ca, files.certificate, files.key)}
    tls.ensure(tmp_path)
    assert {path: path.read_bytes() for path in before} == before
    tls.ensure(tmp_path, ["fed.example.org"])
    assert files.ca.read_bytes() == before[files.ca]
    assert files.certificate.read_bytes() != before[files.certificate]
    tls.ensure(tmp_path)  # fewer names: the certificate that has more stays
    assert b"fed.example.org" in files.certificate.read_bytes() or san(files) >= {"localhost", "fed.example.org"}


def san(files: tls.TlsFiles) -> set[str]:
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(names.get_values_for_type(x509.DNSName))


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    tls.ensure(tmp_path)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("*.key")} == {"ca.key": 0o600, "server.key": 0o600}


def test_given_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    one, two = tls.ensure(tmp_path / "a"), tls.ensure(tmp_path / "b")
    tls.check(one)
    with pytest.raises(ValueError, match="not the key"):
        tls.check(tls.TlsFiles(one.ca, one.certificate, two.key))
