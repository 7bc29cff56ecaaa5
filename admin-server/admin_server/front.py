"""How sites reach this server's REST interface, and whom they are to trust there."""

from pathlib import Path
from urllib.parse import urlsplit

from control_plane.settings import is_loopback

from admin_server import tls
from admin_server.settings import Settings


def certificate(settings: Settings) -> dict[str, Path]:
    """Give the files to serve with: those of the settings, beyond loopback else our own CA's, on loopback none."""
    if settings.tls_certificate is not None and settings.tls_key is not None:
        return {"tls_certificate": settings.tls_certificate, "tls_key": settings.tls_key}
    if is_loopback(settings.host):
        return {}
    files = tls.ensure(settings.espalier_home / "tls", names(settings, settings.host), "rest")
    return {"tls_certificate": files.certificate, "tls_key": files.key}


def ca(settings: Settings) -> Path | None:
    """Give the CA that an invitation carries; None: sites trust what their machines trust."""
    if settings.tls_ca is not None:
        return settings.tls_ca
    is_own = settings.tls_certificate is None and not is_loopback(settings.host)
    return tls.ensure(settings.espalier_home / "tls", kind="rest").ca if is_own else None


def names(settings: Settings, host: str | None) -> list[str]:
    """Name what a certificate for a server that listens at host has to name, the public name of this machine too."""
    public = urlsplit(settings.public_url or "").hostname
    return [*([] if host is None else tls.names_of(host)), *([public] if public else [])]
