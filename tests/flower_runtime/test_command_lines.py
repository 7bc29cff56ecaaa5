"""Command lines that are refused, each with a sentence and before anything starts."""

import argparse
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from flower_runtime.address import host_port
from flower_runtime.stock import option, split


def test_a_command_line_is_split_at_the_first_dashes() -> None:
    assert split(["--listen", "a:1", "--", "--insecure", "--"]) == (["--listen", "a:1"], ["--insecure", "--"])
    assert split(["--listen", "a:1"]) == (["--listen", "a:1"], [])


def test_an_option_is_found_in_both_spellings() -> None:
    assert option(["--port", "1", "--port=2"], "--port", "3") == "2"
    assert option(["--portal", "1"], "--port", "3") == "3"


def test_addresses_are_host_and_port() -> None:
    assert [host_port(text) for text in ("127.0.0.1:80", "[::1]:80")] == [("127.0.0.1", 80), ("::1", 80)]
    for text in ("127.0.0.1", ":80", "a:b", "a:0", "a:65536"):
        with pytest.raises(argparse.ArgumentTypeError):
            host_port(text)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--listen", "0.0.0.0:29092"], "must be a loopback address"),
        (["--listen", "127.0.0.1:29092", "--public", "0.0.0.0:29092"], "need two ports"),
        (["--listen", "127.0.0.1:29092", "--", "--port=1"], "--port=1 is ours to set"),
    ],
)
def test_superlink_refuses_what_would_open_its_apis(arguments: list[str], sentence: str) -> None:
    ended = _run("superlink", *arguments)
    assert ended.returncode == 2
    assert sentence in ended.stderr


def test_a_node_refuses_to_serve_clientapps_beyond_loopback(tmp_path: Path) -> None:
    ended = _run("supernode", *_places(tmp_path), "--", "--host", "0.0.0.0", "--port", "29094")
    assert (ended.returncode, "must be a loopback address" in ended.stderr) == (2, True)
    ended = _run("supernode", *_places(tmp_path), "--", "--isolation", "subprocess")
    assert (ended.returncode, "--isolation is ours to set" in ended.stderr) == (2, True)


def test_a_port_in_use_is_said_in_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        superlink = _run("superlink", "--listen", f"127.0.0.1:{port}", "--", "--insecure")
        node = _run("supernode", *_places(tmp_path), "--", "--port", str(port))
    assert superlink.returncode == node.returncode == 2
    assert superlink.stdout == f"SuperLink cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert f"SuperNode cannot listen on 127.0.0.1:{port}: Address already in use" in node.stderr


def _places(home: Path) -> list[str]:
    places = {"--state-dir": home / "s", "--cache-dir": home / "c", "--wanted-file": home / "w", "--forward-logs": "none"}
    return [str(word) for pair in places.items() for word in pair]


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", f"flower_runtime.{module}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)
