"""A registry on loopback that answers as the distribution specification says, and as badly as a test wants."""

import hashlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPOSITORY = "lab/mlp"


@dataclass
class Answer:
    """One answer; trickle: one byte at a time, until the client is gone."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    trickles: bool = False


Respond = Callable[[str, dict[str, str]], Answer | None]


@dataclass
class Stand:
    """What is there by its path, and who asked for what."""

    port: int = 0
    there: dict[str, Answer] = field(default_factory=dict)
    respond: Respond = lambda path, headers: None
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        """What was asked for, by the last two parts of each path."""
        return ["/".join(path.split("?")[0].split("/")[-2:])[:16] for path, _ in self.asked]

    def push(self, wasm: bytes, **changes: object) -> str:
        """Push a module; gives the digest of its manifest."""
        digest = self.push_blob(wasm)
        layer = {"mediaType": "application/wasm", "digest": digest, "size": len(wasm)}
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": "sha256:" + "0" * 64, "size": 2},
            "layers": [layer],
        }
        return self.push_manifest(json.dumps({**manifest, **changes}).encode())

    def push_blob(self, content: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.there[f"/v2/{REPOSITORY}/blobs/{digest}"] = Answer(body=content)
        return digest

    def push_manifest(self, content: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.there[f"/v2/{REPOSITORY}/manifests/{digest}"] = Answer(body=content)
        return digest


@contextmanager
def open_stand(tls: ssl.SSLContext | None = None) -> Iterator[Stand]:
    stand = Stand()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            stand.asked.append((self.path, headers))
            unknown = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "there is\nno such thing"}]}).encode()
            answer = stand.respond(self.path, headers) or stand.there.get(self.path) or Answer(404, unknown)
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if not answer.trickles:
                self.wfile.write(answer.body)
                return
            try:
                while not closing.wait(0.01):
                    self.wfile.write(b"x")
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    closing = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    stand.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield stand
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
