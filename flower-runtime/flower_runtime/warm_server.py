"""A Python that has imported what ClientApps import, and forks itself for each message.

`python -m flower_runtime.warm_server PARENT_PID HOST:PORT SOCKET_FD MODULES_FILE`, started by flower_runtime.warm, which says
what is spoken on the socket. It has one thread, so that a fork finds no lock held. A fork shares nothing that it changes: each
ClientApp still begins with modules as their import left them, and its own random numbers.
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

from flower_runtime.clientapp import prepare, work
from flower_runtime.output import open_output
from flower_runtime.parent import die_with_parent
from flower_runtime.procfile import read_json


def main() -> None:
    """Warm up, fork until the node closes the socket; in a fork, be a ClientApp."""
    parent_pid, runtime_api, descriptor, modules_file = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    die_with_parent(parent_pid)
    # Else a library that asks for a GPU while it is imported would leave CUDA unusable in every fork.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    changed = prepare()
    if changed:
        sys.exit(f"this Flower is not the one we patch ({'; '.join(changed)}): each ClientApp is started anew")
    modules = [name for name in read_json(modules_file) or [] if _import(name)]
    if threading.active_count() > 1:
        sys.exit(f"not forking beside {threading.active_count() - 1} threads, which importing {modules} has started")
    gc.collect()
    gc.freeze()
    folder = _serve(socket.socket(fileno=descriptor))
    if folder is not None:
        work(runtime_api, folder / "token", modules)


def _import(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception as error:  # the ClientApp that needs it will say so itself
        print(f"{name} is not preloaded: {error!r:.200}", flush=True)
        return False
    return True


def _serve(node: socket.socket) -> Path | None:
    """Fork for each folder that the node names. Returns that folder in the fork, None when the node has closed the socket."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    _say(node, ready=True)
    lines = b""
    while True:
        readable, _, _ = select.select([node.fileno(), woken], [], [])
        if woken in readable:
            os.read(woken, 1024)
            _reap(node)
        if node.fileno() in readable:
            heard = node.recv(65536)
            if not heard:
                return None
            *whole, lines = (lines + heard).split(b"\n")
            for line in whole:
                folder = Path(json.loads(line)["folder"])
                if _forked(node, folder):
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for each in (woken, wakes):
                        os.close(each)
                    node.close()
                    return folder


def _forked(node: socket.socket, folder: Path) -> bool:
    """Fork; True in the fork, which leads its own group and writes into the folder."""
    server = os.getpid()
    output = open_output(folder / "output.log")
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        die_with_parent(server)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        if "numpy" in sys.modules:  # Python's own generator sees to itself, torch's begins alike in every process
            importlib.import_module("numpy").random.seed()
        return True
    os.close(output)
    with suppress(ProcessLookupError):
        os.setpgid(pid, pid)  # whoever is first: the node may kill the group at once
    _say(node, pid=pid)
    return False


def _reap(node: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say(node, pid=pid, code=os.waitstatus_to_exitcode(status))


def _say(node: socket.socket, **message: object) -> None:
    node.sendall(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
