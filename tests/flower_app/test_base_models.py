"""Base models from a folder or from a hub: a real client against a server on this machine that is busy at first."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from flower_app.config import ConfigError
from flower_app.workloads.base_models import HubUnreachable, fetched, find_base_model
from flower_app.workloads.data_dirs import DataMissing

COMMIT = "1" * 40
FILES = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"weights", "pytorch_model.bin": b"a pickle"}
ASK = (
    "import sys; from flower_app.workloads.base_models import find_base_model\n"
    "print(find_base_model('org/tiny', '', weights=sys.argv[1] == '1'))"
)


class Hub(ThreadingHTTPServer):
    """Serves one repository as the hub does, after answering so many requests with 429."""

    def __init__(self, busy: int) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.busy, self.asked, self.is_closed = busy, list[str](), False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        name = self.path.rpartition("/")[2]
        if self.server.is_closed:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body=with_body)
        elif len(self.server.asked) <= self.server.busy:
            self._send(429, b"{}", {"Retry-After": "0"}, with_body=with_body)
        elif "/tree/" in self.path:
            tree = [{"type": "file", "path": file, "size": len(FILES[file]), "oid": _oid(file)} for file in FILES]
            self._send(200, json.dumps(tree).encode(), {}, with_body=with_body)
        elif self.path.startswith("/api/models/org/tiny"):
            told = {"id": "org/tiny", "sha": COMMIT, "siblings": [{"rfilename": file} for file in FILES]}
            self._send(200, json.dumps(told).encode(), {}, with_body=with_body)
        elif name in FILES:
            self._send(200, FILES[name], {"ETag": f'"{_oid(name)}"', "X-Repo-Commit": COMMIT}, with_body=with_body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"}, with_body=with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _oid(file: str) -> str:
    return hashlib.sha1(FILES[file], usedforsecurity=False).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(busy=4) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.05,))
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def ask(hub: Hub, cache: Path, *, weights: bool, **more: str) -> subprocess.CompletedProcess[str]:
    """Look for the model in a Python of its own, as a ClientApp does."""
    environment = {"PATH": os.environ["PATH"], "HF_ENDPOINT": hub.address, "ESPALIER_CACHE_DIR": str(cache), "HOME": str(cache)}
    command = [sys.executable, "-c", ASK, str(int(weights))]
    return subprocess.run(command, env=environment | more, capture_output=True, text=True, check=False, timeout=60)


def test_a_busy_hub_is_asked_again_and_what_it_has_sent_is_kept(hub: Hub, tmp_path: Path) -> None:
    first = ask(hub, tmp_path, weights=False)
    assert first.returncode == 0, first.stderr
    *said, folder = first.stdout.splitlines()
    assert said[1:] == ["base-model org/tiny: HTTP 429 Too Many Requests; trying again in 0 s"] * (len(said) - 1)
    assert len(said) > 2
    assert {each.name for each in Path(folder).iterdir()} == {"config.json"}, "the coordinator needs no weights"
    again = ask(hub, tmp_path, weights=True)
    assert {each.name for each in Path(folder).iterdir()} == {"config.json", "model.safetensors"}, "and nobody a pickle"
    assert Path(folder).is_relative_to(tmp_path / "huggingface" / "hub")
    assert again.stdout.splitlines()[-1] == folder
    before = len(hub.asked)
    ask(hub, tmp_path, weights=True)
    assert not [each for each in hub.asked[before:] if "resolve" in each], "no file is asked for twice"
    assert ask(hub, tmp_path, weights=True, HF_HUB_OFFLINE="1").stdout.splitlines()[-1] == folder


def test_a_repository_that_is_not_there_is_asked_for_once(hub: Hub, tmp_path: Path) -> None:
    hub.is_closed = True
    told = ask(hub, tmp_path, weights=True)
    assert "base-model org/tiny cannot be fetched from the hub: HTTP 404 Not Found. Where" in told.stderr
    assert "put its folder below DATA_DIRS and name that" in told.stderr
    assert "trying again" not in told.stdout
    offline = ask(hub, tmp_path, weights=True, HF_HUB_OFFLINE="1")
    assert "base-model org/tiny is not in" in offline.stderr
    assert "and HF_HUB_OFFLINE is set" in offline.stderr


def test_patience_ends_and_tells_the_cause() -> None:
    waited: list[float] = []

    def away() -> None:
        raise ConnectionRefusedError("nobody listens")

    with pytest.raises(HubUnreachable, match=r"org/tiny cannot be fetched from the hub after 6 tries: .*nobody listens\. Where"):
        fetched(away, "org/tiny", waited.append)
    assert waited == [1, 2, 4, 8, 16]


def test_a_folder_is_found_below_the_data_folders_and_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "second" / "tiny").mkdir(parents=True)
    environment = {"ESPALIER_DATA_DIRS": f"{tmp_path / 'first'}:{tmp_path / 'second'}"}
    assert find_base_model("tiny", "", weights=True, environment=environment) == tmp_path / "second" / "tiny"
    for name in (str(tmp_path / "second" / "tiny"), "../second/tiny"):
        with pytest.raises(ConfigError):
            find_base_model(name, "", weights=True, environment=environment)
    for name in ("nosuch", "no/such/one"):
        with pytest.raises(DataMissing, match=f"there is no base model {name} in {tmp_path}.*; buy it"):
            find_base_model(name, "buy it", weights=True, environment=environment)
    with pytest.raises(ConfigError, match="base-model is empty"):
        find_base_model("", "", weights=True, environment=environment)
    with pytest.raises(ConfigError, match="set HF_HOME"):
        find_base_model("org/tiny", "", weights=True, environment=environment)
