"""The coordinator's own certificate authority and its server certificates, made at first need.

One certificate serves the SuperLink ("server"), another the REST interface beyond loopback ("rest"). Each names localhost,
127.0.0.1 (the SuperLink's own children dial back there) and the hosts that sites dial; it is made anew when a name is
missing or 30 days are left, the CA stays.
"""

import datetime as dt
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from control_plane.files import write_atomic
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS = 3650
SERVER_DAYS = 825
RENEW_DAYS = 30
ALWAYS = ("localhost", "127.0.0.1")
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  the names of "everywhere", not a place to listen


@dataclass(frozen=True)
class TlsFiles:
    """The three files that a server with TLS needs; ca is also what nodes and the CLI trust."""

    ca: Path
    certificate: Path
    key: Path


def ensure(folder: Path, hosts: Iterable[str] = (), kind: Literal["server", "rest"] = "server") -> TlsFiles:
    """Make what is missing in folder, and a new certificate of this kind when it lacks one of the hosts."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = TlsFiles(folder / "ca.crt", folder / f"{kind}.crt", folder / f"{kind}.key")
    if not (files.ca.exists() and (folder / "ca.key").exists()):
        make_ca(folder)
    names = list(dict.fromkeys([*ALWAYS, *hosts]))
    if not files.key.exists() or not serves(files, names):
        make_server(folder, files, names)
    return files


def serves(files: TlsFiles, names: list[str]) -> bool:
    """Is the certificate of this CA, good for 30 more days, and for all names?"""
    if not files.certificate.exists():
        return False
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
    if certificate.issuer != ca.subject or certificate.not_valid_after_utc < now() + dt.timedelta(days=RENEW_DAYS):
        return False
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return all(general_name(name) in list(san) for name in names)


def make_ca(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"espalier-ca-{x509.random_serial_number():x}"[:40])])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        begun(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_atomic(folder / "ca.key", pem_of(key))
    write_atomic(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


def make_server(folder: Path, files: TlsFiles, names: list[str]) -> None:
    ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{folder / 'ca.key'} holds no elliptic-curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, files.certificate.stem)])
    certificate = (
        begun(subject, ca.subject, key.public_key(), SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    write_atomic(files.key, pem_of(key))
    write_atomic(files.certificate, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


def begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    """Fill in what both certificates have; valid from an hour ago, for sites whose clock is behind."""
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now() - dt.timedelta(hours=1))
    return builder.not_valid_after(now() + dt.timedelta(days=days))


def general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    encryption = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def check(files: TlsFiles) -> None:
    """See that given files belong together. Raises ValueError, OSError or TypeError."""
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    key = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
    der = serialization.Encoding.DER
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    if certificate.public_key().public_bytes(der, spki) != key.public_key().public_bytes(der, spki):
        raise ValueError("server.key is not the key of server.crt")
    x509.load_pem_x509_certificate(files.ca.read_bytes())
    if certificate.not_valid_after_utc < now():
        raise ValueError("server.crt has expired")


def der_of(ca: Path) -> bytes:
    """Give the CA certificate as DER, as an invitation carries it."""
    return x509.load_pem_x509_certificate(ca.read_bytes()).public_bytes(serialization.Encoding.DER)


def names_of(host: str) -> list[str]:
    """Name what can be dialled: the host itself, or this machine's names and addresses when it listens everywhere."""
    if host not in WILDCARDS:
        return [host]
    inet = (socket.AF_INET, socket.AF_INET6)
    addresses = [
        a.address for all_of in psutil.net_if_addrs().values() for a in all_of if a.family in inet and "%" not in a.address
    ]
    return [socket.gethostname(), *sorted(a for a in addresses if not ipaddress.ip_address(a).is_loopback)]


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
