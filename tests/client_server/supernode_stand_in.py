"""Stands in for flower_runtime.supernode: ready at once, connected to its SuperLink, and does what the file `do` tells it.

Standard library only, so that it starts in 30 ms. Words of `do`, one a line: `exit N`, `hang SECONDS`, `silent`,
`say TEXT`, `note JSON` (a line of activity.jsonl), `output RUN MESSAGE TEXT`, `clientapp RUN MESSAGE` (a child in a group of
its own that sleeps).
The file `at-start`, where there is one, is done before it is ready.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    split = sys.argv.index("--")
    ours, flowers = argparse.ArgumentParser(), argparse.ArgumentParser()
    for name in ("--state-dir", "--wanted-file", "--cache-dir", "--forward-logs", "--node-name"):
        ours.add_argument(name, required=True)
    for name in ("--superlink", "--root-certificates", "--auth-supernode-private-key", "--node-config", "--host", "--port"):
        flowers.add_argument(name)
    flowers.add_argument("--insecure", action="store_true")
    state_dir = Path(ours.parse_args(sys.argv[1:split]).state_dir)
    node, _ = flowers.parse_known_args(sys.argv[split + 1 :])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    (state_dir / "started-with.json").write_text(json.dumps({"argv": sys.argv[1:], "environment": dict(os.environ)}))
    host, _, port = node.superlink.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    if not node.insecure:
        connection = ssl.create_default_context(cafile=node.root_certificates).wrap_socket(connection, server_hostname=host)
    if (state_dir / "at-start").exists():
        do(state_dir, (state_dir / "at-start").read_text(), connection)
    print("SuperNode ID: 4711", flush=True)
    while True:
        with contextlib.suppress(FileNotFoundError):
            words = (state_dir / "do").read_text()
            if words.endswith("\n"):
                (state_dir / "do").unlink()
                do(state_dir, words, connection)
        time.sleep(0.01)


def do(state_dir: Path, words: str, connection: socket.socket) -> None:
    for line in words.splitlines():
        word, _, rest = line.partition(" ")
        if word == "exit":
            sys.exit(int(rest))
        elif word == "hang":
            time.sleep(float(rest))
        elif word == "silent":
            connection.close()
        elif word == "say":
            print(rest, flush=True)
        elif word == "note":
            with (state_dir / "activity.jsonl").open("a") as file:
                file.write(rest + "\n")
        elif word == "output":
            run, message, text = rest.split(" ", 2)
            folder = state_dir / "clientapps" / run / message
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "output.log").open("a") as file:
                file.write(text.replace("\\n", "\n"))
        elif word == "clientapp":
            start_clientapp(state_dir / "clientapps" / rest.replace(" ", "/"))


def start_clientapp(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    child = subprocess.Popen(["sleep", "300"], process_group=0)
    mark = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    record = {"pid": child.pid, "start_mark": mark, "name": "clientapp", "started_at": "2026-01-01T00:00:00Z"}
    (folder / "proc.json.part").write_text(json.dumps(record))
    (folder / "proc.json.part").rename(folder / "proc.json")


if __name__ == "__main__":
    main()
