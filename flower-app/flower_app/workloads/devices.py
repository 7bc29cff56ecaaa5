"""Where torch computes, and whose turn it is: a GPU that several nodes of one machine share serves one fit at a time."""

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

POLL_S = 0.1


def choose_device(wish: str) -> torch.device:
    """Give the device that a run or a node wishes for, or the CPU, with a line that says so, where there is none.

    wish: auto (CUDA, else Apple's MPS, else the CPU), cpu, cuda or mps.
    """
    there = [
        kind for kind, is_there in (("cuda", torch.cuda.is_available), ("mps", torch.backends.mps.is_available)) if is_there()
    ]
    if wish == "auto":
        return torch.device(there[0] if there else "cpu")
    if wish != "cpu" and wish not in there:
        print(f"device {wish} is not to be had here: training on the CPU", flush=True)
        return torch.device("cpu")
    return torch.device(wish)


def name_of(device: torch.device) -> str:
    """Name a device for people, a GPU with its model."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


@contextmanager
def turn_at(device: torch.device) -> Iterator[float]:
    """Hold a GPU alone among the processes of this machine; gives the seconds that were waited. The CPU is everybody's.

    The lock is an abstract Unix socket named after the GPU: no file, other users' processes count, and it is gone with
    whoever held it, however that ended. Elsewhere than on Linux there is none, and nobody waits.
    """
    key = f"cuda-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else None
    if key is None or sys.platform != "linux":
        yield 0.0
        return
    with turn_of(key) as waited_s:
        yield waited_s


@contextmanager
def turn_of(key: str) -> Iterator[float]:
    """Hold what `key` names alone among the processes of this machine; gives the seconds that were waited."""
    started = time.monotonic()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:
        told = False
        while True:
            try:
                held.bind(f"\0espalier/{key}")
                break
            except OSError as taken:
                if not told:
                    print(f"waiting for {key}, at which another node of this machine works ({taken.strerror})", flush=True)
                told = True
                time.sleep(POLL_S)
        yield time.monotonic() - started
