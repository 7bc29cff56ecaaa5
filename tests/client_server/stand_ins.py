"""An admin server and a SuperLink on real ports that record what they get, and can fail, disappear and come back."""

import asyncio
import base64
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class Listener:
    """An app on a port of its own, which stays the same when it goes away and comes back."""

    def __init__(self, app: Starlette, certificate: Path | None = None, key: Path | None = None) -> None:
        self._app = app
        self._certificate, self._key = certificate, key
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def appear(self) -> None:
        config = uvicorn.Config(
            self._app,
            host="127.0.0.1",
            port=self.port,
            log_config=None,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=0,
            ssl_certfile=self._certificate,
            ssl_keyfile=self._key,
        )
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server._serve())
        while not self._server.started:
            assert not self._serving.done()
            await asyncio.sleep(0.005)

    async def disappear(self) -> None:
        if self._server is not None and self._serving is not None:
            self._server.should_exit = self._server.force_exit = True
            await self._serving
            while connections := self._server.server_state.connections:
                next(iter(connections)).transport.abort()
                await asyncio.sleep(0)
            self._server = None


class AdminStandIn:
    """Keeps the documented contract of the routes that a client server calls."""

    def __init__(self) -> None:
        routes = [
            Route("/nodes/enrol", self._enrol, methods=["POST"]),
            Route("/nodes/{node_id}/heartbeat", self._heartbeat, methods=["POST"]),
            Route("/nodes/{node_id}/reports", self._reports, methods=["POST"]),
            Route("/nodes/{node_id}/wanted", self._wanted),
        ]
        self.listener = Listener(Starlette(routes=routes))
        self.address = f"http://127.0.0.1:{self.listener.port}"
        self.superlink_address = "127.0.0.1:1"
        self.ca_certificate: str | None = None
        self.secrets = {"secret-1": "unused", "secret-2": "unused", "secret-old": "expired", "secret-early": "early"}
        self.enrolled: list[dict[str, Any]] = []
        self.heartbeats: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        self.applied: dict[str, int] = {}
        self.report_status = self.status_of_all = 200
        self.refused = 0
        self.swallow_answers = 0
        self.refuse_kind: str | None = None
        self.seq = 1000
        self.over_runs: list[str] = []
        self.removed = self.revoked = False
        self._news = asyncio.Event()

    def invitation(self, secret: str = "secret-1", **changes: Any) -> str:
        fields = {"address": self.address, "ca": None, "secret": secret, "expires_at": "2099-01-01T00:00:00Z", **changes}
        return "espalier1." + base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [line["data"] for line in self.lines if line["kind"] == kind]

    def statuses(self) -> list[tuple[str, str]]:
        return [(data["session_id"], data["status"]) for data in self.of_kind("session")]

    def texts(self, source: str = "clientapp") -> list[str]:
        return [line["text"] for data in self.of_kind("log") if data["source"] == source for line in data["lines"]]

    def want(self, *over_runs: str) -> None:
        self.over_runs += over_runs
        self.seq += 1
        self._news.set()

    def remove_node(self) -> None:
        self.removed = True
        self.seq += 1
        self._news.set()

    async def _enrol(self, request: Request) -> Response:
        secret = _bearer(request)
        state = self.secrets.get(secret)
        if state == "early":
            return _problem(409, "superlink-not-running", "The SuperLink is not running.")
        if state != "unused":
            status, anchor = {None: (401, "unknown"), "used": (409, "used"), "expired": (410, "expired")}[state]
            return _problem(status, f"invitation-{anchor}", f"The invitation is {anchor}.")
        self.secrets[secret] = "used"
        self.removed = self.revoked = False
        self.enrolled.append(await request.json())
        return JSONResponse(
            {
                "node_id": "6f9619ff-8b86-d011-b42d-00c04fc964ff",
                "flower_node_id": str(4710 + len(self.enrolled)),
                "node_token": f"node-token-{len(self.enrolled)}",
                "superlink_address": self.superlink_address,
                "ca_certificate": self.ca_certificate,
                "project_slug": "fed-project",
                "insecure": self.ca_certificate is None,
            },
            201,
        )

    async def _heartbeat(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        self.heartbeats.append(await request.json())
        return JSONResponse({"wanted_seq": self.seq})

    async def _reports(self, request: Request) -> Response:
        body = await request.json()
        if (refusal := self._refusal(request)) is not None:
            return refusal
        if self.report_status != 200:
            return _problem(self.report_status, "unavailable", "Told to fail.")
        assert len(body["lines"]) <= 1000
        if self.refuse_kind and any(line["kind"] == self.refuse_kind for line in body["lines"]):
            return _problem(422, "invalid", "Told to refuse this kind.")
        applied = self.applied.get(body["spool_id"], 0)
        for line in body["lines"]:
            if line["seq"] == applied + 1:
                self.lines.append(line)
                applied += 1
        self.applied[body["spool_id"]] = applied
        if self.swallow_answers:
            self.swallow_answers -= 1
            return _problem(503, "unavailable", "Applied, but the answer is lost.")
        return JSONResponse({"applied_seq": applied})

    async def _wanted(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        while self.seq <= int(request.query_params["after"]):
            self._news.clear()
            await self._news.wait()
        return JSONResponse({"seq": self.seq, "over_runs": self.over_runs, "cancelled_messages": [], "removed": self.removed})

    def _refusal(self, request: Request) -> Response | None:
        if self.status_of_all != 200:
            self.refused += 1
            return _problem(self.status_of_all, "database-away", "Told to fail.")
        if self.revoked or _bearer(request) != f"node-token-{len(self.enrolled)}":
            return _problem(401, "unauthorized", "This token is unknown or revoked.")
        return None


def superlink(certificate: Path | None = None, key: Path | None = None) -> Listener:
    async def health(_: Request) -> Response:
        return Response()

    return Listener(Starlette(routes=[Route("/health", health)]), certificate, key)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for 127.0.0.1, which is its own CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "stand-in.crt", folder / "stand-in.key"
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    ssl.create_default_context(cafile=str(certificate_file))
    return certificate_file, key_file


@contextlib.asynccontextmanager
async def appeared(listener: Listener) -> AsyncIterator[Listener]:
    await listener.appear()
    try:
        yield listener
    finally:
        await listener.disappear()


def _bearer(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def _problem(status: int, anchor: str, detail: str) -> Response:
    body = {"type": f"/docs/troubleshooting.md#{anchor}", "title": detail, "status": status, "detail": detail}
    return JSONResponse(body, status, media_type="application/problem+json")
