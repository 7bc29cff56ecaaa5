"""What demo.py can train: a demo for each workload, its data, and sites that an earlier demo has left."""

import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from demo_sites import start_supernode
from demo_stack import Stack, Trouble
from demo_workloads import DEMOS, make_ready, runtimes, travelling

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_asks_for_what_the_app_has(name: str) -> None:
    app = tomllib.loads((ROOT / "flower-app" / "pyproject.toml").read_text("utf-8"))["tool"]
    assert name in app["espalier"]["run-config"]["workload"]["choices"]
    declared = app["flwr"]["app"]["config"]
    assert {key: type(declared[key]) for key in DEMOS[name].run_config} == {
        key: type(value) for key, value in DEMOS[name].run_config.items()
    }


def test_a_workload_without_a_demo_is_refused_with_the_choices() -> None:
    command = [sys.executable, str(ROOT / "demo.py"), "--workload", "dgits"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "invalid choice: 'dgits'" in ended.stderr
    assert all(name in ended.stderr for name in DEMOS)


def test_data_that_a_package_brings_are_told_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_workloads.DEBIAN", tmp_path / "datasets")
    stack = Stack(tmp_path, 8000, ())
    with pytest.raises(Trouble, match=f"fashion-mnist, which is not in {tmp_path}/data or {tmp_path}/datasets: `apt install"):
        make_ready(stack, "fashion")
    (tmp_path / "data" / "fashion-mnist").mkdir(parents=True)
    make_ready(stack, "fashion")


def test_data_are_fetched_to_where_the_servers_look_and_a_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "asked: $*"\nexit $(cat "$(dirname "$0")/exit")\n')
    python.chmod(0o700)
    (tmp_path / "exit").write_text("0")
    monkeypatch.setattr("demo_workloads.sys", SimpleNamespace(executable=str(python)))
    stack = Stack(tmp_path, 8000, ())
    make_ready(stack, "lora-text")
    assert capfd.readouterr().out == f"asked: -m flower_app.fetch lora-text --to {tmp_path}/data\n"
    (tmp_path / "exit").write_text("1")
    with pytest.raises(Trouble, match="the data of lora-text could not be fetched"):
        make_ready(stack, "lora-text")


def test_what_travels_of_a_model_of_parts_is_told() -> None:
    part = {"parameters": 295_682, "size_bytes": 1_182_728}
    told = "adapters 295,682 of 23,008,898 parameters (1.3 %), 1.2 MB instead of 92.0 MB a message"
    assert travelling({**part, "whole_parameters": 23_008_898, "whole_size_bytes": 92_035_592}) == told
    assert travelling({**part, "whole_parameters": None, "whole_size_bytes": None}) is None
    assert travelling(part) is None


def test_in_what_each_site_trained_is_told_where_its_updates_say_so() -> None:
    in_sandbox = {"node_name": "site-a", "runtime": "wasm", "abi": "fl/1", "module_sha256": "0a1b2c3d" + 56 * "0"}
    updates: list[dict[str, Any]] = [
        {"facts": {"node_name": "site-b", "runtime": "torch"}},
        *({"facts": in_sandbox}, {"facts": in_sandbox}),
        {"facts": None},
        {"facts": {"node_name": "site-c"}},
    ]
    assert runtimes(updates) == ["site-a wasm, fl/1, module 0a1b2c3d…", "site-b torch"]


def test_a_mixed_demo_is_refused_where_there_is_none() -> None:
    command = [sys.executable, str(ROOT / "demo.py"), "--mixed"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "--mixed goes with --workload wasm" in ended.stderr


class FakeSite:
    """A client server's SuperNode: it runs with the request that it was last started with, and is not started twice."""

    def __init__(self, request: dict[str, Any] | None) -> None:
        self.state, self.request, self.starts = "running" if request else "stopped", request, 0

    def get(self, path: str) -> dict[str, Any]:
        return {"state": self.state, "request": self.request}

    def post(self, path: str, body: dict[str, Any]) -> None:
        match path, self.state:
            case "/supernode/stop", "running":
                self.state = "stopped"
            case "/supernode/start", "stopped":
                self.state, self.request, self.starts = "running", {"node_config": {}, **body}, self.starts + 1
            case _:
                raise Trouble(f"{path} while it is {self.state}")


@pytest.mark.parametrize(
    ("before", "starts"),
    [
        (None, 1),
        ({"partition_id": 1, "num_partitions": 2, "node_config": {}}, 0),
        ({"partition_id": 1, "num_partitions": 3, "node_config": {}}, 1),
        ({"partition_id": 1, "num_partitions": 2, "node_config": {"runtime": "torch"}}, 1),
    ],
)
def test_a_site_of_another_demo_gets_the_part_and_the_runtime_of_this_one(
    before: dict[str, Any] | None, starts: int, tmp_path: Path
) -> None:
    stack, site = Stack(tmp_path, 8000, ("site-a", "site-b")), FakeSite(before)
    stack.sites["site-b"] = site  # type: ignore[assignment]
    start_supernode(stack, "site-b", 1, {})
    assert (site.state, site.starts) == ("running", starts)
    assert site.request == {"partition_id": 1, "num_partitions": 2, "node_config": {}}
