"""SuperLink behind a guard: `python -m flower_runtime.superlink --listen 127.0.0.1:PORT [--public HOST:PORT] -- <args>`.

The loopback socket serves everything. The public socket serves the Fleet API and /health, because Control and Runtime have
no login: who reaches them starts runs. Arguments after `--` are flower-superlink's own, without --host and --port.
"""

import argparse
import functools
import logging
import os
import socket
import sys
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

from flower_runtime import redelivery, stock
from flower_runtime.address import host_port, listen
from flower_runtime.environment import QUIET
from flower_runtime.guard import FleetOnly
from flower_runtime.patch import log_plainly, original, replace
from flower_runtime.pins import PINS
from flower_runtime.selfcheck import faults

_COMMAND = "flwr.superlink.cli.flower_superlink"
# With TLS one idle keep-alive client held the end up for more than 30 s; what is under way is retried by its sender.
GRACEFUL_SHUTDOWN_S = 2
# Stock is 5 s, on which a node or a ServerApp is answered 500. Messages of 400 MB from eight nodes hold the database longer.
DATABASE_WAIT_S = 60


def main() -> None:
    """Serve until a signal comes. Exits 2 with a sentence when an address cannot be had."""
    ours, flowers = stock.split(sys.argv[1:])
    parser = argparse.ArgumentParser(prog="flower_runtime.superlink", description="SuperLink on a guarded pair of sockets.")
    parser.add_argument("--listen", type=host_port, required=True, metavar="127.0.0.1:PORT", help="serves all, loopback only")
    parser.add_argument("--public", type=host_port, metavar="HOST:PORT", help="serves the Fleet API and /health only")
    args = parser.parse_args(ours)
    refusal = _refusal(args, flowers)
    if refusal:
        parser.error(refusal)
    os.environ.update(QUIET)
    stock_arguments = ["--host", args.listen[0], "--port", str(args.listen[1]), *flowers]

    sockets = [_open(address) for address in (args.listen, args.public) if address]
    changed = faults(PINS["superlink"])
    if changed:
        print(f"this Flower is not the one we guard ({'; '.join(changed)}): starting flower-superlink unguarded", flush=True)
        if args.public:
            print("refusing --public: without the guard everybody who reaches that port could start runs", flush=True)
            sys.exit(2)
        for opened in sockets:
            opened.close()
        stock.become("flower-superlink", stock_arguments, os.environ)

    replace(_COMMAND, "uvicorn", SimpleNamespace(run=functools.partial(_serve, sockets, args.listen[1])))
    log_plainly()
    wait_for_the_database()
    redelivery.install()
    _leave_out_questions_of_nodes()
    sys.argv = ["flower-superlink", *stock_arguments]
    original(_COMMAND, "flower_superlink")()


def _refusal(args: argparse.Namespace, flowers: list[str]) -> str | None:
    host, port = args.listen
    if host != "localhost" and not _is_loopback(host):
        return f"--listen {host}:{port} serves APIs without a login, so it must be a loopback address"
    if args.public and args.public[1] == port:
        return f"--listen and --public need two ports, both say {port}"
    taken = [word for word in flowers if word.partition("=")[0] in ("--host", "--port")]
    return f"{taken[0]} is ours to set: use --listen and --public" if taken else None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _open(address: tuple[str, int]) -> socket.socket:
    try:
        return listen(*address)
    except OSError as error:
        print(f"SuperLink cannot listen on {address[0]}:{address[1]}: {error.strerror or error}", flush=True)
        sys.exit(2)


def _serve(sockets: list[socket.socket], full_port: int, *, app: Any, **settings: Any) -> None:
    """Stand in for uvicorn.run: the same server on our sockets, with the guard around the app and an end in bounded time."""
    import uvicorn

    settings.pop("reload", None)
    settings["timeout_graceful_shutdown"] = GRACEFUL_SHUTDOWN_S
    uvicorn.Server(uvicorn.Config(FleetOnly(app, full_port), **settings)).run(sockets=sockets)


def wait_for_the_database() -> None:
    """Have each request wait up to DATABASE_WAIT_S for SuperLink's SQLite, which one transaction at a time may write to."""
    pragmas = dict(original("flwr.supercore.sql_mixin", "SQLITE_PRAGMAS"))
    longer = pragmas | {"busy_timeout": str(DATABASE_WAIT_S * 1000)}
    replace("flwr.supercore.sql_mixin", "SQLITE_PRAGMAS", tuple(longer.items()))


def _leave_out_questions_of_nodes() -> None:
    """Keep each working node's question whether its run still runs, one a second, out of the log."""
    routine = original("flwr.supercore.http_logging", "ROUTINE_ACCESS_PATHS")
    replace("flwr.supercore.http_logging", "ROUTINE_ACCESS_PATHS", routine | {"/v1/fleet/get-run"})
    logging.getLogger("flwr").addFilter(lambda record: not str(record.msg).startswith("[Fleet.GetRun]"))


if __name__ == "__main__":
    main()
