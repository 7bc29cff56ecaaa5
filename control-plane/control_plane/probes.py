"""Is it ready? Questions that a start repeats until the answer is yes."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from control_plane.logfiles import Tail

Probe = Callable[[], Awaitable[bool]]

_TIMEOUT_S = 2.0


def http_ok(url: str, ca: Path | None = None) -> Probe:
    """Probe a URL for a 2xx answer; ca: the PEM file of the CA that an https server's certificate must come from."""
    verify = ssl.create_default_context(cafile=ca) if url.startswith("https:") else False

    def ask() -> bool:
        try:
            # A connection for each question: an idle one makes some servers hang on TERM.
            return httpx.get(url, verify=verify, timeout=_TIMEOUT_S, trust_env=False).is_success
        except httpx.TransportError:
            return False

    async def probe() -> bool:
        return await asyncio.to_thread(ask)  # httpx's asynchronous client loses the socket of a TLS handshake that is cancelled

    return probe


def log_line(path: Path, text: str, since_offset: int = 0) -> Probe:
    """Probe a log file for a complete line that contains text, from an offset on (SupervisedProcess.log_size())."""
    tail = Tail(path, since_offset)

    async def probe() -> bool:
        while lines := tail.read(1000):
            if any(text in line.text for line in lines):
                return True
        return False

    return probe


def port_open(host: str, port: int) -> Probe:
    """Probe whether somebody accepts connections at a TCP port."""

    async def probe() -> bool:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    return probe
