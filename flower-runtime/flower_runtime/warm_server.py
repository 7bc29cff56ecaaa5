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
    os.set_inheritable(descriptor, False)
    die_with_parent(parent_pid)
    # Else a library that asks for a GPU while it is imported would leave CUDA unusable in every fork.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    changed = prepare()
    if changed:
        _refuse(f"this Flower is not the one we patch ({'; '.join(changed)})")
    modules = [name for name in read_json(modules_file) or [] if _import(name)]
    if threading.active_count() > 1:
        _refuse(f"importing the modules of {modules_file} has started {threading.active_count() - 1} threads")
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        _refuse(f"importing the modules of {modules_file} has started CUDA, which no fork could use")
    gc.collect()
    gc.freeze()
    folder = _Server(socket.socket(fileno=descriptor)).serve()
    if folder is not None:
        work(runtime_api, folder / "token", modules)


def _import(name: str) -> bool:
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the ClientApp that needs it will say so itself
        print(f"{name} is not preloaded: {error!r:.200}", flush=True)
        return False
    return True


def _refuse(why: str) -> None:
    """End at once: an exit by the book would wait for threads that somebody else has started."""
    print(f"no ClientApp is forked: {why}", flush=True)
    os._exit(1)


class _Server:
    def __init__(self, node: socket.socket) -> None:
        self._node = node
        self._woken, self._wakes = os.pipe()
        self._forked: set[int] = set()
        self._ended: set[int] = set()

    def serve(self) -> Path | None:
        """Do as the node says. Returns a message's folder in the fork for it, None when the node has closed the socket."""
        os.set_blocking(self._wakes, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakes)
        self._say(ready=True)
        rest = b""
        while True:
            readable, _, _ = select.select([self._node.fileno(), self._woken], [], [])
            if self._woken in readable:
                os.read(self._woken, 1024)
                self._tell_ends()
            if self._node.fileno() in readable:
                heard = self._node.recv(65536)
                if not heard:
                    return None
                *lines, rest = (rest + heard).split(b"\n")
                for line in lines:
                    wish = json.loads(line)
                    if "reap" in wish:
                        self._reap(wish["reap"])
                    elif self._is_fork(Path(wish["folder"])):
                        return Path(wish["folder"])

    def _is_fork(self, folder: Path) -> bool:
        """Fork; True in the fork, which leads its own group, writes into the folder and has nothing of the server's."""
        server = os.getpid()
        output = open_output(folder / "output.log")
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            die_with_parent(server)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(output, 1)
            os.dup2(output, 2)
            self._node.close()
            for descriptor in (output, self._woken, self._wakes):
                os.close(descriptor)
            if "numpy" in sys.modules:  # Python's own generator sees to itself, torch's begins alike in every process
                importlib.import_module("numpy").random.seed()
            return True
        os.close(output)
        with suppress(ProcessLookupError):
            os.setpgid(pid, pid)  # whoever is first: the node may kill the group at once
        self._forked.add(pid)
        self._say(pid=pid)
        return False

    def _tell_ends(self) -> None:
        """Say which forks have ended, and leave them unreaped: their pids stay theirs while the node may kill their groups."""
        for pid in self._forked - self._ended:
            end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if end is not None:
                self._ended.add(pid)
                self._say(pid=pid, code=end.si_status if end.si_code == os.CLD_EXITED else -end.si_status)

    def _reap(self, pid: int) -> None:
        os.waitpid(pid, 0)
        self._forked.discard(pid)
        self._ended.discard(pid)

    def _say(self, **message: object) -> None:
        self._node.sendall(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
