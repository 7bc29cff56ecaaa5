"""Is a SuperLink there, and is it the one this site trusts?"""

import asyncio
import ssl

from client_server.errors import SuperLinkUnreachable
from client_server.launch import Target

TIMEOUT_S = 5.0


async def check_superlink(target: Target) -> None:
    """Ask the SuperLink for its health as the SuperNode would speak to it.

    Raises SuperLinkUnreachable, saying whether nothing listens, the certificate is not trusted, or something else answers.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S):
            status = await _health(target)
    except (OSError, TimeoutError, EOFError, UnicodeError) as error:  # UnicodeError: no name that DNS could have
        raise SuperLinkUnreachable(_sentence(target, error), superlink_address=target.superlink) from error
    if not 200 <= status < 300:
        raise SuperLinkUnreachable(
            f"What answers at {target.superlink} is no SuperLink: GET /health gave {status}.", superlink_address=target.superlink
        )


async def superlink_answers(target: Target) -> bool:
    """Say whether check_superlink finds nothing wrong."""
    try:
        await check_superlink(target)
    except SuperLinkUnreachable:
        return False
    return True


async def _health(target: Target) -> int:
    """Give the status of GET /health.

    Without httpx: that one leaves a connection open when it is cancelled during the handshake, as happens here, and a SuperLink
    that somebody holds a connection to takes over 30 s to end.
    """
    ca = target.root_certificates
    trust = None if ca is None else ssl.create_default_context(cafile=str(ca))
    reader, writer = await asyncio.open_connection(target.host, target.port, ssl=trust)
    try:
        writer.write(f"GET /health HTTP/1.1\r\nHost: {target.superlink}\r\nConnection: close\r\n\r\n".encode())
        version, status, _ = (await reader.readuntil(b"\n")).split(maxsplit=2)
        return int(status) if version.startswith(b"HTTP/") else 0
    except (ValueError, asyncio.LimitOverrunError):
        return 0
    finally:
        writer.transport.abort()


def _sentence(target: Target, error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"The certificate of {target.superlink} is not one of the CA in {target.root_certificates}: {error.verify_message}."
        )
    if isinstance(error, ssl.SSLError):
        return f"{target.superlink} does not speak TLS: {error}."
    if isinstance(error, EOFError | ConnectionResetError):
        return f"{target.superlink} closed the connection{' without TLS; it may want TLS' if target.key is None else ''}."
    return f"Nothing answers at {target.superlink}: {str(error) or f'no answer within {TIMEOUT_S:g} s'}."
