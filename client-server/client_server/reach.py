"""Is a SuperLink there, and is it the one this site trusts?"""

import ssl

import httpx

from client_server.errors import SuperLinkUnreachable
from client_server.launch import Target

TIMEOUT_S = 5.0


async def check_superlink(target: Target) -> None:
    """Ask the SuperLink for its health as the SuperNode would speak to it.

    Raises SuperLinkUnreachable, saying whether nothing listens, the certificate is not trusted, or something else answers.
    """
    ca = target.root_certificates
    scheme = "http" if ca is None else "https"
    verify: ssl.SSLContext | bool = False if ca is None else ssl.create_default_context(cafile=str(ca))
    url = f"{scheme}://{target.superlink}/health"
    # A client of its own: with an idle connection left open a SuperLink takes over 30 s to end.
    async with httpx.AsyncClient(verify=verify, timeout=TIMEOUT_S, trust_env=False) as client:
        try:
            response = await client.get(url)
        except httpx.TransportError as error:
            raise SuperLinkUnreachable(_sentence(target, error), superlink_address=target.superlink) from error
    if not response.is_success:
        raise SuperLinkUnreachable(
            f"What answers at {target.superlink} is no SuperLink: GET /health gave {response.status_code}.",
            superlink_address=target.superlink,
        )


async def superlink_answers(target: Target) -> bool:
    """Say whether check_superlink finds nothing wrong."""
    try:
        await check_superlink(target)
    except SuperLinkUnreachable:
        return False
    return True


def _sentence(target: Target, error: httpx.TransportError) -> str:
    text = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"The certificate of {target.superlink} is not of the CA in {target.root_certificates}: {text}"
    if "SSL" in text or "record layer" in text.lower():
        return f"{target.superlink} does not speak TLS: {text}"
    if target.root_certificates is None and isinstance(error, httpx.RemoteProtocolError):
        return f"{target.superlink} closed a connection without TLS; it may want TLS: {text}"
    return f"Nothing answers at {target.superlink}: {text}"
