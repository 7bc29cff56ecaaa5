"""Where torch computes, and whose turn it is: a GPU that several nodes of one machine share serves one fit at a time."""

import errno
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from flower_app.workloads.memory import told_when_out_of_memory

POLL_S = 0.1

_held: dict[str, float] = {}


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
def model_at(device: torch.device, model: torch.nn.Module, layout: torch.memory_format = torch.preserve_format) -> Iterator[None]:
    """Hold a device with a model on it; afterwards neither the model nor what was computed is there. Raises OutOfMemory."""
    with turn_at(device):
        try:
            with told_when_out_of_memory(device):
                model.to(device, memory_format=layout)  # type: ignore[call-overload]
            yield
        finally:
            model.to("cpu")


@contextmanager
def turn_at(device: torch.device) -> Iterator[float]:
    """Hold a GPU alone among the processes of this machine; gives the seconds that were waited. The CPU is everybody's.

    The lock is an abstract Unix socket named after the GPU: no file, other users' processes count, and it is gone with
    whoever held it, however that ended. Such sockets are per network namespace: containers with namespaces of their own do not
    wait for each other, and elsewhere than on Linux nobody waits. Memory that torch keeps for later is given back before a wait
    and after the turn.
    """
    if device.type != "cuda" or sys.platform != "linux":
        yield 0.0
        return
    torch.cuda.empty_cache()
    with turn_of(f"cuda-{torch.cuda.get_device_properties(device).uuid}") as waited_s:
        try:
            yield waited_s
        finally:
            torch.cuda.empty_cache()


@contextmanager
def turn_of(key: str) -> Iterator[float]:
    """Hold what `key` names alone among the processes of this network namespace; gives the seconds that were waited.

    A turn within a turn of this process is the same one. Where the system gives no lock, a line says so and nobody waits.
    """
    if key in _held:
        yield _held[key]
        return
    started = time.monotonic()
    with _lock(key):
        _held[key] = time.monotonic() - started
        try:
            yield _held[key]
        finally:
            del _held[key]


def _lock(key: str) -> AbstractContextManager[object]:
    told = False
    while True:
        try:
            return _bound(f"\0espalier/{key}")
        except OSError as error:
            reason = error.strerror or error
            if error.errno != errno.EADDRINUSE:
                print(f"other nodes of this machine may work at {key} at the same time: there is no lock ({reason})", flush=True)
                return nullcontext()
            if not told:
                print(f"waiting for {key}, at which another node of this machine works ({reason})", flush=True)
            told = True
        time.sleep(POLL_S)


def _bound(address: str) -> socket.socket:
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        held.bind(address)
    except OSError:
        held.close()
        raise
    return held
