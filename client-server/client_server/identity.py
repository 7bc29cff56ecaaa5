"""Who this site is at its coordinator: the node's key, its ids and its token, kept over restarts."""

import base64
from datetime import UTC, datetime
from pathlib import Path

from control_plane.files import read_json, write_atomic
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import BaseModel

from client_server.folder import SiteFolder


class Identity(BaseModel, frozen=True):
    """What identity.json holds; its being there is the enrolment."""

    node_id: str
    flower_node_id: str | None
    external_id: str
    display_name: str
    admin_address: str
    admin_ca: str | None
    superlink_address: str
    project_slug: str
    insecure: bool
    enrolled_at: datetime
    removed_at: datetime | None = None

    @property
    def admin_ca_der(self) -> bytes | None:
        """The CA that the admin server's certificate must come from."""
        return None if self.admin_ca is None else base64.b64decode(self.admin_ca)


class NodeKey:
    """A P-384 key in the one form that SuperNodes take: OpenSSH (PKCS8 ends them with Exit Code 302)."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP384R1())
        self.private_pem = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        self.public_line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


class IdentityStore:
    """Keeps the identity in the site's folder."""

    def __init__(self, folder: SiteFolder) -> None:
        self._folder = folder
        stored = read_json(folder.identity)
        self.identity = None if stored is None else Identity.model_validate(stored)

    @property
    def node_token(self) -> str:
        """The bearer token of this node at its admin server."""
        return self._folder.node_token.read_text().strip()

    def keep(self, identity: Identity, key: NodeKey, node_token: str, ca_certificate: str | None) -> None:
        """Store a new identity; identity.json is written last, so that a crash leaves the old one or none, never half of one."""
        folder = self._folder
        files: list[tuple[Path, bytes | str]] = [
            (folder.node_key, key.private_pem),
            (folder.node_pub, key.public_line + "\n"),
            (folder.node_token, node_token + "\n"),
        ]
        if ca_certificate:
            files.append((folder.ca_certificate, ca_certificate))
        try:
            for path, content in files:
                write_atomic(path, content, 0o600)
            self._write(identity)
        except OSError:
            if self.identity is None:
                for path, _ in files:
                    path.unlink(missing_ok=True)
            raise

    def mark_removed(self) -> None:
        """Remember that the coordinator removed this node."""
        if self.identity is not None and self.identity.removed_at is None:
            self._write(self.identity.model_copy(update={"removed_at": datetime.now(UTC)}))

    def _write(self, identity: Identity) -> None:
        write_atomic(self._folder.identity, identity.model_dump_json(indent=1) + "\n", 0o600)
        self.identity = identity
