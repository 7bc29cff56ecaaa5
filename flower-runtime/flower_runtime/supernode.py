"""A SuperNode whose ClientApps are watched: `python -m flower_runtime.supernode --state-dir DIR … -- <flower-supernode args>`.

Flower's own SuperNode runs in this process; each message is worked on by one ClientApp process in its own group.
A dead ClientApp is answered for at once, one whose run is over is killed. Ready when `SuperNode ID: <id>` is printed.
Exits 75 when Flower's loop has ended by itself, which stock leaves as a zombie.
"""

import argparse
import fcntl
import logging
import os
import secrets
import sys
import threading
import traceback
from ipaddress import ip_address
from pathlib import Path

from flower_runtime import stock
from flower_runtime.address import listen
from flower_runtime.clientapps import RESTART_ME, ClientApps, NodeSettings
from flower_runtime.environment import QUIET
from flower_runtime.handover import Handover
from flower_runtime.leftovers import end_leftovers
from flower_runtime.orphans import adopt_orphans
from flower_runtime.patch import original
from flower_runtime.pins import PINS
from flower_runtime.secretfile import write_secret
from flower_runtime.selfcheck import faults

_OURS_TO_SET = ("--isolation", "--superexec-auth-secret-file", "--ssl-certfile", "--ssl-keyfile", "--ssl-ca-certfile")


def main() -> None:
    """Run the node until a signal comes or Flower's loop ends."""
    ours, flowers = stock.split(sys.argv[1:])
    parser = _parser()
    args = parser.parse_args(ours)
    host, port = stock.option(flowers, "--host", "127.0.0.1"), stock.option(flowers, "--port", "9094")
    refusal = _refusal(flowers, host, port)
    if refusal:
        parser.error(refusal)
    os.environ.update(QUIET)
    os.umask(0o077)
    for directory in (args.state_dir, args.cache_dir):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _lock(args.state_dir)
    os.environ.setdefault("FLWR_HOME", str(args.state_dir / "flwr-home"))

    runtime_api = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    settings = NodeSettings(
        args.state_dir,
        args.wanted_file,
        args.cache_dir,
        args.forward_logs,
        args.node_name,
        runtime_api,
        not args.cold and sys.platform == "linux",
    )

    changed = faults(PINS["supernode"])
    if changed:
        print(f"this Flower is not the one we watch ({'; '.join(changed)}): starting flower-supernode as stock", flush=True)
        stock.become("flower-supernode", [*flowers, "--isolation", "subprocess"], settings.clientapp_environment())

    adopt_orphans()
    end_leftovers(settings)
    handover = Handover()
    handover.install()
    secret_file = args.state_dir / "superexec.secret"
    write_secret(secret_file, secrets.token_bytes(32))
    threading.Thread(target=_forget_secret, args=(handover, secret_file), daemon=True).start()
    clientapps = ClientApps(handover, settings)
    clientapps.start()
    sys.argv = ["flower-supernode", *flowers, "--isolation", "process", "--superexec-auth-secret-file", str(secret_file)]
    code = _run_flower()
    clientapps.close()
    secret_file.unlink(missing_ok=True)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # Flower's HTTP thread would keep the process


def _run_flower() -> int:
    try:
        original("flwr.supernode.cli.flower_supernode", "flower_supernode")()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
    print("SuperNode's loop has ended by itself; exiting so that it is restarted", flush=True)
    return RESTART_ME


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flower_runtime.supernode", description="A SuperNode whose ClientApps are watched.")
    parser.add_argument("--state-dir", type=_absolute, required=True, metavar="DIR")
    parser.add_argument("--wanted-file", type=_absolute, required=True, metavar="FILE")
    parser.add_argument("--cache-dir", type=_absolute, required=True, metavar="DIR")
    parser.add_argument("--forward-logs", choices=("none", "errors", "all"), required=True)
    parser.add_argument("--node-name", default="", metavar="NAME", help="named in the replies for a dead ClientApp")
    parser.add_argument("--cold", action="store_true", help="start a new Python for each message, without a warm server")
    return parser


def _absolute(text: str) -> Path:
    return Path(text).absolute()


def _refusal(flowers: list[str], host: str, port: str) -> str | None:
    taken = [word for word in flowers if word.partition("=")[0] in _OURS_TO_SET]
    if taken:
        return f"{taken[0]} is ours to set"
    try:
        if not ip_address(host.strip("[]")).is_loopback:
            return f"--host {host}: ClientApps are served without TLS, so it must be a loopback address"
        listen(host.strip("[]"), int(port)).close()
    except ValueError:
        return f"--host {host} --port {port} is not a loopback address and a port"
    except OSError as error:
        return f"SuperNode cannot listen on {host}:{port}: {error.strerror or error}"
    return None


def _lock(state_dir: Path) -> None:
    """Hold the directory until this process ends: another SuperNode in it would take our ClientApps for leftovers."""
    descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another SuperNode works in {state_dir}", flush=True)
        sys.exit(2)


def _forget_secret(handover: Handover, path: Path) -> None:
    """Delete the secret's file once the node is connected: it has been read by then.

    The secret keeps other users of this machine from taking our tasks by the node's own port.
    """
    handover.wait_connected()
    path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
