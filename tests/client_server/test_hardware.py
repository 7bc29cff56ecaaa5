"""What a site says of its machine."""

from pathlib import Path

import pytest
from client_server.hardware import describe_hardware


def put_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


async def test_gpus_are_named_with_their_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA H100 80GB HBM3, 81559, 550.54.15'; echo 'NVIDIA A2, [N/A], 550.54.15'")
    assert (await describe_hardware())["gpus"] == [
        {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 81559 * 2**20, "driver": "550.54.15"},
        {"name": "NVIDIA A2", "memory_bytes": None, "driver": "550.54.15"},
    ]


@pytest.mark.parametrize("script", ["echo 'No devices were found'", "echo broken >&2; exit 9"])
async def test_a_driver_without_gpus_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    put_nvidia_smi(tmp_path, monkeypatch, script)
    assert (await describe_hardware())["gpus"] == []
