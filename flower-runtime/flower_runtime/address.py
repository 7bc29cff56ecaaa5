"""Addresses as HOST:PORT, and the sockets that listen there."""

import argparse
import socket


def host_port(text: str) -> tuple[str, int]:
    """Parse HOST:PORT or [IPV6]:PORT, as an argparse type."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket. Raises OSError when the port is in use or the host is not ours."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(2048)
    except OSError:
        opened.close()
        raise
    return opened
