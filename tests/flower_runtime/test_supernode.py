"""What a node does when SuperLink misbehaves, shown on a stand-in that can be told to: a real one answers no 500 on demand."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse

from tests.flower_runtime.waiting import free_port


class BrokenSuperLink(ThreadingHTTPServer):
    """Accepts any node, has no messages for it, and fails once it is told to."""

    daemon_threads = True
    fails = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, BrokenSuperLink)
        self.rfile.read(int(self.headers["content-length"]))
        failed = self.server.fails and self.path.endswith("pull-messages")
        answers: dict[str, Any] = {
            "/v1/fleet/activate-node": ActivateNodeResponse(node_id=7),
            "/v1/fleet/send-node-heartbeat": SendNodeHeartbeatResponse(success=True),
            "/v1/fleet/pull-messages": PullMessagesResponse(),
        }
        body = answers[self.path].SerializeToString() if self.path in answers and not failed else b""
        self.send_response(500 if failed else 200)
        self.send_header("content-type", "application/protobuf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def superlink() -> Iterator[BrokenSuperLink]:
    """Give a stand-in for SuperLink that answers."""
    with BrokenSuperLink(("127.0.0.1", 0), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _start(home: Path, superlink: BrokenSuperLink, port: int) -> subprocess.Popen[str]:
    places = ("--state-dir", home / "state", "--cache-dir", home / "cache", "--wanted-file", home / "wanted.json")
    flowers = ("--insecure", "--superlink", superlink.address, "--port", port)
    words = ("-P", "-m", "flower_runtime.supernode", *places, "--forward-logs", "none", "--", *flowers)
    return subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_node_whose_loop_ends_exits_and_only_one_works_in_a_directory(tmp_path: Path, superlink: BrokenSuperLink) -> None:
    with _start(tmp_path, superlink, free_port()) as node:
        assert node.stdout is not None
        assert any("SuperNode ID: 7" in line for line in node.stdout)
        with _start(tmp_path, superlink, free_port()) as second:
            assert second.stdout is not None
            assert second.wait(60) == 2
            assert second.stdout.read() == f"another SuperNode works in {tmp_path}/state\n"
        superlink.fails = True
        assert node.wait(60) == 75
        assert "SuperNode's loop has ended by itself; exiting so that it is restarted" in node.stdout.read()
