import asyncio
import socket
from pathlib import Path

from control_plane.probes import http_ok, log_line, port_open


async def test_a_line_in_the_log_counts_from_its_offset_on_and_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    probe = log_line(path, "ready", 6)
    assert not await probe()
    path.write_text("ready\n")
    assert not await probe()
    path.write_text("ready\nwait\nnow ready")
    assert not await probe()
    path.write_text("ready\nwait\nnow ready\n")
    assert await probe()


async def test_http_is_ok_at_a_2xx_only() -> None:
    answer = b"503 Service Unavailable"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readline():  # who only looks whether the port is open says nothing
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 " + answer + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    probe = http_ok(f"http://127.0.0.1:{port}/health")
    async with server:
        assert await port_open("127.0.0.1", port)()
        assert not await probe()
        answer = b"200 OK"
        assert await probe()
    assert not await probe()
    assert not await port_open("127.0.0.1", port)()


async def test_a_probe_that_is_cancelled_in_a_tls_handshake_leaves_no_connection() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        asking = asyncio.ensure_future(http_ok(f"https://127.0.0.1:{listener.getsockname()[1]}/health")())
        silent, _ = await loop.sock_accept(listener)
        with silent:
            assert await loop.sock_recv(silent, 65536), "it says hello"
            asking.cancel()
            async with asyncio.timeout(20):
                assert await loop.sock_recv(silent, 65536) == b"", "it has left"
