"""What a SuperLink is started with: the request checked, and the command lines made of it."""

from __future__ import annotations

import re
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.files import is_file
from control_plane.settings import is_loopback
from control_plane.tokens import read_or_create

from admin_server import front, tls
from admin_server.arguments import Allowed, take
from admin_server.errors import AddressInvalid, CertificatesInvalid
from admin_server.schemas import SuperlinkStart
from admin_server.settings import Settings

PUBLIC_PORT = 9093


@dataclass(frozen=True)
class SuperlinkPlan:
    """A checked request: where the SuperLink listens, what it proves itself with and what else it is told."""

    home: Path
    port: int
    public: tuple[str, int] | None
    files: tls.TlsFiles | None
    extra: tuple[str, ...]

    @property
    def insecure(self) -> bool:
        return self.files is None

    @property
    def address(self) -> str:
        """Where this machine reaches all of its APIs."""
        return f"127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path | None:
        return None if self.files is None else self.files.ca

    @property
    def ca_pem(self) -> bytes | None:
        return None if self.files is None else self.files.ca.read_bytes()

    @property
    def health_url(self) -> str:
        return f"{'http' if self.insecure else 'https'}://{self.address}/health"

    @property
    def public_address(self) -> str | None:
        """Where sites reach its Fleet API, as far as this machine can tell; None: only from this machine."""
        if self.public is None:
            return None
        host = socket.gethostname() if self.public[0] in tls.WILDCARDS else self.public[0]
        return joined(host, self.public[1])

    def address_for(self, host: str | None) -> str:
        """Where a site reaches its Fleet API, dialling `host` if it says one."""
        if self.public is None:
            return self.address
        return joined(host, self.public[1]) if host else self.public_address or self.address

    def superlink_argv(self) -> list[str]:
        folder = self.home / "superlink"
        argv = [sys.executable, "-m", "flower_runtime.superlink", "--listen", self.address]
        argv += ["--public", joined(*self.public)] if self.public else []
        argv += ["--", "--isolation", "process", "--database", str(folder / "superlink.db")]
        argv += ["--disable-runtime-dependency-installation", "--superexec-auth-secret-file", str(self.secret())]
        if self.files is None:
            return [*argv, "--insecure", *self.extra]
        argv += ["--ssl-ca-certfile", str(self.files.ca), "--ssl-certfile", str(self.files.certificate)]
        return [*argv, "--ssl-keyfile", str(self.files.key), "--enable-supernode-auth", *self.extra]

    def executor_argv(self) -> list[str]:
        argv = [sys.executable, "-m", "flower_runtime.executor", "--runtime-api", self.address]
        argv += ["--insecure"] if self.files is None else ["--root-certificates", str(self.files.ca)]
        folders = ["--runs-dir", str(self.home / "runs"), "--models-dir", str(self.home / "initial-models")]
        return [*argv, "--superexec-auth-secret-file", str(self.secret()), *folders]

    def secret(self) -> Path:
        """The file that lets the executor, and nobody else, take ServerApps; made at first use."""
        path = self.home / "superlink" / "superexec.secret"
        read_or_create(path)
        return path


def plan(request: SuperlinkStart, settings: Settings) -> SuperlinkPlan:
    """Check a start request and make the certificates that it needs.

    Raises AddressInvalid, CertificatesInvalid, ArgumentRefused.
    """
    home = settings.espalier_home
    public = parse_address(request.listen_address, settings.superlink_port) if request.listen_address else None
    extra = take(request.extra_args, superlink_allows(home))
    if request.insecure and request.certificates_path:
        raise CertificatesInvalid("insecure means no TLS, so certificates_path says nothing: leave one of them out.")
    if request.insecure and public is not None and not is_loopback(public[0]):
        raise AddressInvalid(f"insecure is for this machine only; {joined(*public)} can be reached by others.", host=public[0])
    if request.insecure:
        files = None
    elif request.certificates_path:
        files = given(Path(request.certificates_path))
    else:
        files = tls.ensure(home / "tls", front.names(settings, public and public[0]))
    return SuperlinkPlan(home, settings.superlink_port, public, files, tuple(extra))


def superlink_allows(home: Path) -> dict[str, Allowed]:
    """The flags of flower-superlink that a request may add; none of them undoes TLS, sockets, isolation or the database."""

    def inside(text: str) -> Any:
        path = Path(text)
        if not path.is_absolute() or not path.resolve().is_relative_to(home.resolve()):
            raise ValueError(f"must be an absolute path below {home}")

    return {"--log-file": inside, "--log-rotation-interval-hours": counted, "--log-rotation-backup-count": counted}


def counted(text: str) -> Any:
    if not text.isdigit() or int(text) < 1:
        raise ValueError("must be a whole number from 1 on")


def given(folder: Path) -> tls.TlsFiles:
    """Take the certificates of the folder ca.crt, server.crt and server.key. Raises CertificatesInvalid, naming the file."""
    files = tls.TlsFiles(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    if not folder.is_absolute():
        raise CertificatesInvalid(f"certificates_path must be absolute, not {folder}.", path=str(folder))
    for path in (files.ca, files.certificate, files.key):
        if not is_file(path):
            raise CertificatesInvalid(
                f"{path} does not exist; the folder must hold ca.crt, server.crt and server.key.", path=str(path)
            )
    try:
        tls.check(files)
    except (ValueError, TypeError, OSError) as refused:
        raise CertificatesInvalid(f"{folder} cannot be used: {refused}.", path=str(folder)) from None
    return files


def parse_address(text: str, taken_port: int) -> tuple[str, int]:
    """Read HOST, HOST:PORT or [IPV6]:PORT; the port is 9093 if none is said. Raises AddressInvalid."""
    host, colon, port = text.rpartition(":") if not text.endswith("]") and text.count(":") != 0 else (text, "", "")
    if text.count(":") > 1 and not text.startswith("["):
        host, colon, port = text, "", ""
    host = host.removeprefix("[").removesuffix("]")
    number = int(port) if re.fullmatch("[0-9]{1,5}", port) else PUBLIC_PORT if not colon else 0
    if not re.fullmatch(r"[!-~]+", host) or any(letter in "/@" for letter in host) or not 0 < number < 65536:
        raise AddressInvalid(f"listen_address must be HOST or HOST:PORT, not {text!r}.", listen_address=text)
    if number == taken_port:
        raise AddressInvalid(f"Port {number} is the SuperLink's own port on 127.0.0.1; choose another.", listen_address=text)
    return host, number


def joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
