import asyncio
import datetime
import ipaddress
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from control_plane.probes import http_ok
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

SERVER = """
import asyncio, contextlib, sys
from pathlib import Path
from fastapi import FastAPI
from control_plane import logs, problems
from control_plane.serve import serve
from control_plane.sse import Broadcast, Event, event_stream

logs.configure()

@contextlib.asynccontextmanager
async def lifespan(app):
    if "broken" in sys.argv:
        raise RuntimeError("the database is away")
    print("began", flush=True)
    yield
    print("ended", flush=True)

app = FastAPI(lifespan=lifespan)
problems.install(app)
broadcast = Broadcast()

@app.get("/health")
async def health():
    return "ok"

@app.get("/follow")
async def follow():
    live = broadcast.subscribe("t")
    broadcast.publish("t", Event("line", 1, "1"))
    return event_stream(live)

@app.get("/count")
async def count():
    return broadcast.count("t")

tls = {"tls_certificate": Path(sys.argv[2]), "tls_key": Path(sys.argv[3])} if "tls" in sys.argv else {}
serve(app, "127.0.0.1", int(sys.argv[1]), before_shutdown=[broadcast.close], **tls)
print("clean", flush=True)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server in a process of its own."""

    def __init__(self, *words: str) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(self.port), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        """Signal it, and give its exit code, what it printed and its log."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.process.kill()
    server.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_open_streams_then_the_lifespan_and_the_exit_code_is_0(
    server: Server, number: signal.Signals
) -> None:
    assert server.first_line == "began\n"
    async with (
        httpx.AsyncClient(trust_env=False, timeout=20) as client,
        client.stream("GET", f"http://127.0.0.1:{server.port}/follow") as response,
    ):
        lines = response.aiter_lines()
        while await anext(lines) != "data: 1":
            pass
        ending = asyncio.create_task(asyncio.to_thread(server.end, number))
        assert [line async for line in lines] == [""]
    code, out, err = await ending
    assert (code, out) == (0, "ended\nclean\n")
    assert f"listening on http://127.0.0.1:{server.port}" in err
    assert "timeout graceful shutdown exceeded" not in err


async def test_a_client_that_leaves_its_stream_is_forgotten_at_once(server: Server) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=20, base_url=f"http://127.0.0.1:{server.port}") as client:
        async with client.stream("GET", "/follow") as response:
            lines = response.aiter_lines()
            while await anext(lines) != "data: 1":
                pass
            assert (await client.get("/count")).json() == 1
        async with asyncio.timeout(10):
            while (await client.get("/count")).json():
                pass


def test_a_port_in_use_is_one_sentence_and_exit_code_2_before_anything_begins(server: Server) -> None:
    second = subprocess.run([sys.executable, "-c", SERVER, str(server.port)], capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert second.stdout == ""
    assert second.stderr == (
        f"Port {server.port} on 127.0.0.1 is in use by another process: stop that one, or choose another port.\n"
    )


def test_a_lifespan_that_fails_to_begin_is_exit_code_3() -> None:
    server = Server("broken")
    out, err = server.process.communicate(timeout=20)
    assert server.process.returncode == 3
    assert "the database is away" in err
    assert "clean" not in out


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "a.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "a.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return tmp_path / "a.crt", tmp_path / "a.key"


async def test_with_a_certificate_it_speaks_tls_and_the_probe_checks_it(certificate: tuple[Path, Path]) -> None:
    server = Server(*map(str, certificate), "tls")
    try:
        url = f"https://127.0.0.1:{server.port}/health"
        assert await http_ok(url, certificate[0])()
        assert not await http_ok(url)()
    finally:
        code, _, err = await asyncio.to_thread(server.end, signal.SIGTERM)
    assert code == 0
    assert "listening on https://" in err
