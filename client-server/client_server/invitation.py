"""An invitation: the one string by which a coordinator lets a site in."""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from control_plane.settings import is_loopback
from cryptography.x509 import load_der_x509_certificate

from client_server.errors import InvitationRefused

PREFIX = "espalier1."
LONGEST_INVITATION_CHARS = 16_384


@dataclass(frozen=True)
class Invitation:
    """Where to enrol, whom to trust there, and the secret that may be used once."""

    address: str
    ca_der: bytes | None
    secret: str
    expires_at: str


def parse_invitation(text: str) -> Invitation:
    """Read an invitation string.

    Raises InvitationRefused, saying what is wrong with it and never repeating it: it holds a secret.
    """
    text = "".join(text.split())
    if len(text) > LONGEST_INVITATION_CHARS:
        raise _garbled(f"it is longer than {LONGEST_INVITATION_CHARS} characters")
    if not text.startswith(PREFIX):
        raise _garbled(f"an invitation starts with {PREFIX!r}")
    body = text.removeprefix(PREFIX)
    try:
        fields = json.loads(base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _garbled("what follows the prefix is not base64url of JSON; was it cut off?") from error
    if not isinstance(fields, dict):
        raise _garbled("its content is not a JSON object")
    secret = _text(fields, "secret")
    if not re.fullmatch("[!-~]+", secret):  # it goes into a header
        raise _garbled("its secret is none")
    return Invitation(
        address=_address(fields.get("address")),
        ca_der=_ca(fields.get("ca")),
        secret=secret,
        expires_at=_text(fields, "expires_at"),
    )


def _address(value: object) -> str:
    if not isinstance(value, str):
        raise _garbled("it names no address")
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise _garbled(f"its address {value[:200]!r} is not a URL") from error
    if parts.scheme not in ("http", "https") or not host:
        raise _garbled(f"its address {value[:200]!r} is not http(s)://host[:port]")
    if parts.scheme == "http" and not is_loopback(host):
        raise _garbled(f"its address {value[:200]!r} leaves this machine without TLS")
    return value.rstrip("/")


def _ca(value: object) -> bytes | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise _garbled("its CA certificate is not text")
    try:
        der = base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
        load_der_x509_certificate(der)
    except ValueError as error:
        raise _garbled("its CA certificate is not base64 of a DER certificate") from error
    return der


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise _garbled(f"it has no {name}")
    return value


def _garbled(why: str) -> InvitationRefused:
    return InvitationRefused(f"The invitation cannot be read: {why}.", reason="garbled")
