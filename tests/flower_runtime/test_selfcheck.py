"""The day Flower changes a name that we touch, this file fails; and what the launchers do on that day."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from flower_runtime.pins import PINS, Part
from flower_runtime.selfcheck import Pin, faults


@pytest.mark.parametrize("part", PINS)
def test_every_name_inside_flower_is_as_pinned(part: Part) -> None:
    assert faults(PINS[part]) == []


def test_every_module_of_flower_that_we_name_is_pinned() -> None:
    """What the sources name as a string or import is in pins.py, or public: a proto module or flwr.app."""
    rooms = Path(str(sys.modules["flower_runtime.pins"].__file__)).parent
    words = " ".join(path.read_text() for path in rooms.glob("*.py") if path.name != "pins.py").replace('"', " ").split()
    named = {word for word in words if word.startswith("flwr.") and "/" not in word}
    pinned = {pin.module for pins in PINS.values() for pin in pins}
    public = {"flwr.app", "flwr.proto.fleet_pb2"}
    assert named - pinned - public == {"flwr.supernode.cli.flwr_clientapp"}, "stock, when the pins of a ClientApp do not hold"


@pytest.mark.parametrize(
    ("pin", "fault"),
    [
        (Pin("flwr.nothing", "x"), "flwr.nothing: No module named 'flwr.nothing'"),
        (Pin("flwr.supercore.heartbeat", "HeartbeatSender.gone"), "flwr.supercore.heartbeat.HeartbeatSender.gone is gone"),
        (
            Pin("flwr.supercore.heartbeat", "exponential", ("jitter",)),
            "flwr.supercore.heartbeat.exponential has no parameter jitter",
        ),
        (
            Pin("flwr.supercore.heartbeat", "HeartbeatSender._run", mentions=("sleep", "wait")),
            "flwr.supercore.heartbeat.HeartbeatSender._run no longer uses sleep",
        ),
    ],
)
def test_a_change_is_said_in_words(pin: Pin, fault: str) -> None:
    assert faults([pin]) == [fault]


def _launch_with_a_changed_flower(part: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from flower_runtime import pins, selfcheck, superlink, supernode;"
        f"pins.PINS[{part!r}] += (selfcheck.Pin('flwr.supercore', 'of_tomorrow'),);"
        f"sys.argv = ['flower_runtime.{part}', *{list(arguments)!r}]; {part}.main()"
    )
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, env=os.environ)


def test_superlink_of_a_changed_flower_refuses_to_be_public() -> None:
    ended = _launch_with_a_changed_flower(
        "superlink", "--listen", "127.0.0.1:29092", "--public", "0.0.0.0:29093", "--", "--insecure"
    )
    assert ended.returncode == 2
    assert "flwr.supercore.of_tomorrow is gone" in ended.stdout
    assert "refusing --public" in ended.stdout


def test_supernode_of_a_changed_flower_is_flowers_own(tmp_path: Path) -> None:
    places = ("--state-dir", f"{tmp_path}/state", "--cache-dir", f"{tmp_path}/cache", "--wanted-file", f"{tmp_path}/wanted.json")
    ended = _launch_with_a_changed_flower("supernode", *places, "--forward-logs", "none", "--", "--port", "29094", "--version")
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "Flower version: 1.41.0")
    assert "starting flower-supernode as stock" in ended.stdout
