"""A coordinator and three or four sites on this machine train a real model on real data, driven by REST alone.

Starts one admin server and a client server for each site as children, then does what a person would do with an HTTP client, and
prints what it reads back. `python3 run.py demo` installs what this needs and starts it.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is started yet: Ctrl-C ends us without a traceback

import argparse
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    from rich.console import Console

    from demo_rounds import figure, shown_rounds, size
    from demo_sites import PATIENCE_S, absent, all_online, explained, start_supernode
    from demo_stack import Rest, Signalled, Stack, Trouble, ignore_signals, note_signals
    from demo_workloads import DEMOS, Demo, make_ready, runtimes, travelling
except ModuleNotFoundError as missing:
    sys.exit(f"demo: the package {missing.name} is missing; `python3 run.py demo` installs everything and starts the demo.")

SITES = ("site-a", "site-b", "site-c", "site-d")
LONGEST_S = 3600.0
ENDS = ("completed", "failed", "stopped")
WRITTEN = {
    "history": "history.json",
    "chart": "chart.png",
    "server": "server/round_*_aggregated.json",
    "clients": "clients/*/round_*.json",
}
out = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Tell the story; 0 when the goal was reached, 1 with a sentence when it was not, 128 + signal when interrupted."""
    options = parse_options()
    demo = DEMOS[options.workload]
    note_signals()
    try:
        with Stack(options.home.expanduser().absolute(), options.ports, SITES[: demo.sites]) as stack:
            reached = story(stack, options.workload, demo, options.rounds or demo.rounds, mixed=options.mixed)
            if options.keep:
                keep_up(stack)
        return 0 if reached else 1
    except Signalled as signalled:
        print("\ndemo: interrupted; all that it had started is stopped.", file=sys.stderr)
        return 128 + signalled.number
    except Trouble as trouble:
        print(f"\ndemo: {trouble}", file=sys.stderr)
        return 1
    finally:
        ignore_signals()


def parse_options() -> argparse.Namespace:
    home = Path(os.environ.get("ESPALIER_HOME") or "~/.local/state/espalier")
    defaults = ", ".join(f"{name} {demo.rounds}" for name, demo in DEMOS.items())
    parser = argparse.ArgumentParser(prog="python3 run.py demo", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--workload", choices=DEMOS, default="digits", help="what is trained (default digits)")
    add("--mixed", action="store_true", help="with --workload wasm: the last site trains in PyTorch, the others in the sandbox")
    add("--keep", action="store_true", help="keep the servers up afterwards, until Ctrl-C")
    add("--rounds", type=int, metavar="N", help=f"rounds of training (default {defaults})")
    add("--home", type=Path, default=home, metavar="DIR", help="folder of all state (default: ESPALIER_HOME)")
    add("--ports", type=int, default=8000, metavar="BASE", help="admin server there, sites at the next ports (default 8000)")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds is 1 or more")
    if options.mixed and not DEMOS[options.workload].mixed:
        with_mixed = ", ".join(name for name, demo in DEMOS.items() if demo.mixed)
        parser.error(f"--mixed goes with --workload {with_mixed}")
    if not 1024 <= options.ports <= 64000:
        parser.error("--ports is between 1024 and 64000")
    return options


def story(stack: Stack, workload: str, demo: Demo, rounds: int, *, mixed: bool) -> bool:
    """Do it all once; True when the test accuracy that REST gives at the end reaches the goal."""
    started = time.monotonic()
    if demo.needs or demo.fetched:
        with phase("data"):
            make_ready(stack, workload)
    with phase("servers"):
        stack.start()
        for server in stack.servers:
            out.print(f"  {server.name} at {server.address}")
    with phase("SuperLink"):
        start_superlink(stack)
    with phase("sites"):
        for number, (name, site) in enumerate(stack.sites.items()):
            enrol(stack.admin, site, name)
            start_supernode(stack, name, number, demo.mixed if mixed and number == len(stack.sites) - 1 else {})
        stack.wait("the sites", lambda: all_online(stack), PATIENCE_S, lambda: absent(stack))
        out.print(f"  {', '.join(stack.sites)} online")
    with phase("training"):
        run = train(stack, {"workload": workload, "num-rounds": rounds, **demo.run_config})
    report(stack.admin, run)
    out.print(f"{time.monotonic() - started:.1f} s in all")
    accuracy = run["metrics"].get("accuracy")
    if accuracy is None or accuracy < demo.goal:
        print(f"demo: test accuracy {accuracy} is below {demo.goal} after {run['rounds_done']} rounds.", file=sys.stderr)
        return False
    return True


@contextmanager
def phase(name: str) -> Iterator[None]:
    started = time.monotonic()
    out.print(f"[bold]{name}[/bold]")
    yield
    out.print(f"  [dim]{time.monotonic() - started:.1f} s[/dim]")


def start_superlink(stack: Stack) -> None:
    admin = stack.admin
    if admin.get("/superlink")["state"] not in ("starting", "running"):
        admin.post("/superlink/start", {"insecure": False})

    def running() -> bool:
        return all(part["state"] == "running" for part in parts())

    def parts() -> tuple[dict[str, Any], dict[str, Any]]:
        state = admin.get("/superlink")
        for part in (state, state["executor"]):
            if part["state"] == "failed":
                raise Trouble(f"the SuperLink could not be started: {explained(part)}")
        return state, state["executor"]

    stack.wait("the start of the SuperLink", running, PATIENCE_S, lambda: " ".join(map(explained, parts())))
    state = admin.get("/superlink")
    out.print(f"  SuperLink at {state['address']}, pid {state['pid']}")


def enrol(admin: Rest, site: Rest, name: str) -> None:
    """Let a site in by a one-time invitation; one that is enrolled already keeps its key and its Flower id."""
    if site.get("/supernode")["flower_node_id"]:
        return
    invitation = admin.post("/nodes/invitations", {"label": name})["invitation"]
    node = site.post("/enrolment", {"invitation": invitation})
    out.print(f"  {name} enrolled as Flower node {node['flower_node_id']}")


def train(stack: Stack, run_config: dict[str, Any]) -> dict[str, Any]:
    """Start a run and show its rounds as they come; the run as REST tells it at its end."""
    admin = stack.admin
    run_config |= {"min-available": len(stack.sites)}
    run_id = admin.post("/runs/start", {"app": "flower-app", "run_config": run_config, "label": "demo"})["id"]
    out.print(f"  run {run_id}")
    seen_all = time.monotonic()
    with shown_rounds(out) as show:

        def ended() -> bool:
            nonlocal seen_all
            status = admin.get(f"/runs/{run_id}")["status"]
            show(admin.get(f"/runs/{run_id}/rounds?limit=1000")["items"], counted_updates(admin, run_id))
            if all_online(stack):
                seen_all = time.monotonic()
            elif time.monotonic() - seen_all > PATIENCE_S:
                raise Trouble(f"a site has been away for {PATIENCE_S:.0f} s: {absent(stack)}")
            return status in ENDS

        stack.wait(f"run {run_id}", ended, LONGEST_S)
    run: dict[str, Any] = admin.get(f"/runs/{run_id}")
    if run["status"] != "completed":
        raise Trouble(f"run {run_id} {run['status']}: {told(run['cause'])}")
    return run


def counted_updates(admin: Rest, run_id: str) -> Counter[int]:
    updates = admin.get(f"/runs/{run_id}/updates?limit=1000")["items"]
    return Counter(update["round"] for update in updates if update["status"] == "counted")


def told(cause: dict[str, Any] | None) -> str:
    if not cause:
        return "no cause is recorded"
    where = cause.get("node_name") or cause.get("node_id") or "the coordinator"
    lines = "".join(f"\n    {line}" for line in cause.get("last_lines") or [])
    return f"{cause['type']} on {where}: {cause['message']}{lines}"


def report(admin: Rest, run: dict[str, Any]) -> None:
    """Print the result and what lies where; raises Trouble when a file is not there, or is not what its sha256 says."""
    folder = Path(run["run_dir"])
    artifacts = admin.get(f"/runs/{run['id']}/artifacts?limit=1000")["items"]
    final = next((artifact for artifact in artifacts if artifact["role"] == "final"), None)
    if final is None:
        raise Trouble(f"run {run['id']} completed, and has no final model among its artifacts.")
    out.print(f"\n[bold]test accuracy {figure(run['metrics'].get('accuracy'), '.4f')}[/bold] after {run['rounds_done']} rounds")
    if travels := travelling(run["opened"]["model"]):
        out.print(f"  {travels}")
    for trained in runtimes(admin.get(f"/runs/{run['id']}/updates?limit=1000")["items"]):
        out.print(f"  {trained}")
    model = folder / final["path"]
    if not model.is_file():
        raise Trouble(f"the final model is not at {model}.")
    if hashlib.sha256(model.read_bytes()).hexdigest() != final["sha256"]:
        raise Trouble(f"{model} is not the model that was recorded: its sha256 is not {final['sha256']}.")
    out.print(f"  model    {model}")
    out.print(f"           sha256 {final['sha256']}, {size(model.stat().st_size)}, verified")
    for name, pattern in WRITTEN.items():
        found = sorted(folder.glob(pattern))
        if not found:
            raise Trouble(f"the run wrote no {pattern} in {folder}.")
        out.print(f"  {name:<8} {folder / pattern}" + (f"  ({len(found)} files)" if "*" in pattern else ""))


def keep_up(stack: Stack) -> None:
    """Say how to reach the servers, and wait for Ctrl-C, which is the way out of here and no failure."""
    for server in stack.servers:
        out.print(f"  {server.name}: {server.address}, token in {server.token_file}")
    flwr = Path(sys.executable).with_name("flwr")
    out.print(f"  another run, from this folder:\n    FLWR_HOME={stack.home / 'flwr'} {flwr} run flower-app espalier")
    out.print("Ctrl-C ends it.")
    try:
        stack.wait("Ctrl-C", lambda: False, seconds=float("inf"))
    except Signalled:
        out.print("\nstopping")


if __name__ == "__main__":
    sys.exit(main())
