"""What this machine is, as the coordinator is told."""

import asyncio
import importlib.metadata
import os
import platform
import shutil
from typing import Any

import psutil

NVIDIA_QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
NVIDIA_TIMEOUT_S = 10


async def describe_hardware() -> dict[str, Any]:
    """Describe processor, memory, GPUs, operating system and Python; sizes in bytes."""
    return {
        "arch": platform.machine(),
        "cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": await _gpus(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version for name in ("flwr", "torch", "wasmtime") if (version := _installed(name))},
    }


def usable_cores() -> int:
    """Count the cores this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


async def _gpus() -> list[dict[str, Any]]:
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return []
    child = await asyncio.create_subprocess_exec(
        nvidia_smi,
        *NVIDIA_QUERY,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        output, _ = await asyncio.wait_for(child.communicate(), NVIDIA_TIMEOUT_S)
    except TimeoutError:
        child.kill()
        await child.wait()
        return []
    return (
        [_gpu(line) for line in output.decode(errors="replace").splitlines() if line.count(",") >= 2]
        if child.returncode == 0
        else []
    )


def _gpu(line: str) -> dict[str, Any]:
    name, memory_mib, driver = (part.strip() for part in line.rsplit(",", 2))
    return {"name": name, "memory_bytes": int(memory_mib) * 2**20 if memory_mib.isdigit() else None, "driver": driver}


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
