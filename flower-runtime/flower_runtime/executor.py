"""The executor: starts each run's ServerApp, in a session, a directory and an environment of its own.

`python -m flower_runtime.executor --runtime-api HOST:PORT (--root-certificates CA | --insecure)
 [--superexec-auth-secret-file F] --runs-dir DIR [--models-dir DIR]`

Prints `executor ready` when SuperLink has answered once. ServerApps outlive it and SuperLink: neither is their parent.
"""

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from flower_runtime import stock
from flower_runtime.attempts import Attempt
from flower_runtime.environment import QUIET, child_environment
from flower_runtime.hold import wait_while_held
from flower_runtime.outage import Outage
from flower_runtime.pins import PINS
from flower_runtime.selfcheck import faults
from flower_runtime.tasks import Series, ServerAppTask, Tasks, Unreachable

_POLL_S = 0.5
# A task that was taken and not started within 30 s is handed out again, so later than this it is somebody else's.
_SERIES_PATIENCE_S = 20.0

log = logging.getLogger("executor")


def main() -> None:
    """Take ServerApp tasks for ever. TERM ends the executor and leaves the ServerApps alone."""
    args = _parse(sys.argv[1:])
    os.environ.update(QUIET)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    changed = faults(PINS["executor"])
    if changed:
        log.error("this Flower is not the one we know (%s): starting flower-superexec instead", "; ".join(changed))
        stock.become("flower-superexec", _superexec_arguments(args), child_environment(os.environ, {}))
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    os.umask(0o077)
    args.runs_dir.mkdir(parents=True, exist_ok=True)
    tasks = Tasks(args.runtime_api, args.root_certificates, args.superexec_auth_secret_file)
    _take_for_ever(tasks, args)


def _take_for_ever(tasks: Tasks, args: argparse.Namespace) -> NoReturn:
    wrappers: list[subprocess.Popen[bytes]] = []
    outage = Outage(_POLL_S)
    ready = False
    while True:
        wrappers = [each for each in wrappers if each.poll() is None]
        try:
            task = tasks.acquire()
        except Unreachable as error:
            outage.wait(f"SuperLink at {args.runtime_api}: {error}")
            continue
        outage.end()
        if not ready:
            ready = True
            print("executor ready", flush=True)
        if task is None:
            time.sleep(_POLL_S)
        elif wrapper := _start(tasks, task, args):
            wrappers.append(wrapper)


def _start(tasks: Tasks, task: ServerAppTask, args: argparse.Namespace) -> subprocess.Popen[bytes] | None:
    series = _series_of(tasks, task.run_id)
    if series is None:
        return None
    wait_while_held(args.runs_dir, series.fab_hash)
    attempt = Attempt(args.runs_dir, series.series_id, str(task.run_id), args.models_dir)
    connection = ["--insecure"] if args.insecure else ["--root-certificates", str(args.root_certificates)]
    try:
        wrapper = attempt.start(task.token, ["--runtime-api-address", args.runtime_api, *connection])
    except OSError as error:
        reason = f"the ServerApp could not be started: {error}"
        log.error("run %s: %s", task.run_id, reason)
        with contextlib.suppress(OSError):  # it is in the log
            attempt.note_failed_start(reason)
        return None
    log.info("run %s: ServerApp started, directory %s", task.run_id, attempt.directory)
    return wrapper


def _series_of(tasks: Tasks, run_id: int) -> Series | None:
    deadline = time.monotonic() + _SERIES_PATIENCE_S
    while True:
        try:
            return tasks.series_of(run_id)
        except Unreachable as error:
            if time.monotonic() > deadline:
                log.error("run %s: its series is not to be had (%s); the task will be handed out again", run_id, error)
                return None
            time.sleep(_POLL_S)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="flower_runtime.executor", description="Starts the ServerApps of a SuperLink.")
    parser.add_argument("--runtime-api", required=True, metavar="HOST:PORT")
    security = parser.add_mutually_exclusive_group(required=True)
    security.add_argument("--root-certificates", type=_file, metavar="CA")
    security.add_argument("--insecure", action="store_true")
    parser.add_argument("--superexec-auth-secret-file", type=_file, metavar="FILE")
    parser.add_argument("--runs-dir", type=lambda text: Path(text).absolute(), required=True, metavar="DIR")
    parser.add_argument("--models-dir", type=lambda text: Path(text).absolute(), metavar="DIR", help="initial models, by sha256")
    return parser.parse_args(argv)


def _file(text: str) -> Path:
    path = Path(text).absolute()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {path}")
    return path


def _superexec_arguments(args: argparse.Namespace) -> list[str]:
    secret = args.superexec_auth_secret_file
    return [
        "--runtime-api-address",
        args.runtime_api,
        *(["--insecure"] if args.insecure else ["--root-certificates", str(args.root_certificates)]),
        *(["--superexec-auth-secret-file", str(secret)] if secret else []),
    ]


def _leave(number: int, _frame: FrameType | None) -> None:
    log.info("executor ends on %s; ServerApps go on", signal.Signals(number).name)
    sys.exit(0)


if __name__ == "__main__":
    main()
