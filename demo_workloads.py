"""What the demo can train: its table of demos, what each needs on this machine, and what it says of a model of parts."""

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo_rounds import size
from demo_stack import Stack, Trouble, signal_group

DEBIAN = Path("/usr/share/datasets")
FETCH_S = 3600.0


@dataclass(frozen=True)
class Demo:
    """One demo: its sites, its rounds where nobody says otherwise, the least test accuracy that it has to end with.

    run_config: keys besides the workload's own defaults. fetched: data are brought by `flower_app.fetch`.
    needs: a file or folder of data, and what installs it. mixed: what the last site's node is told in a mixed demo, where there
    is one.
    """

    sites: int
    rounds: int
    goal: float
    run_config: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    fetched: bool = False
    needs: tuple[str, str] | None = None
    mixed: Mapping[str, str] = field(default_factory=dict)


DEMOS = {
    "digits": Demo(sites=3, rounds=10, goal=0.95),
    "tabular": Demo(sites=3, rounds=5, goal=0.93),
    "fashion": Demo(sites=3, rounds=3, goal=0.80, needs=("fashion-mnist", "`apt install dataset-fashion-mnist` brings it")),
    "lora-text": Demo(sites=4, rounds=4, goal=0.77, fetched=True),
    "wasm": Demo(sites=3, rounds=15, goal=0.95, run_config={"layers": "64-64-10"}, mixed={"runtime": "torch"}),
}


def make_ready(stack: Stack, name: str) -> None:
    """See that the data of a demo are where its servers look for them; raises Trouble, Signalled."""
    demo, data = DEMOS[name], stack.home / "data"
    if demo.needs:
        what, how = demo.needs
        if not any((folder / what).exists() for folder in (data, DEBIAN)):
            raise Trouble(f"{name} trains on {what}, which is not in {data} or {DEBIAN}: {how}.")
    if demo.fetched:
        fetch(stack, name, data)


def fetch(stack: Stack, name: str, data: Path) -> None:
    """Fetch the data of a workload, its progress shown; what is there already is not fetched again."""
    command = [sys.executable, "-m", "flower_app.fetch", name, "--to", str(data)]
    child = subprocess.Popen(command, cwd=Path(__file__).parent, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        stack.wait(f"fetching the data of {name}", lambda: child.poll() is not None, FETCH_S)
    finally:
        if child.poll() is None:
            signal_group(child.pid, signal.SIGTERM)  # it leaves no half of a folder
        child.wait()
    if child.returncode:
        raise Trouble(f"the data of {name} could not be fetched, for the reason above.")


def runtimes(updates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say in what each site trained, of the updates that tell it: as `site-a wasm, fl/1, module 1a2b3c4d…`."""
    told = {}
    for update in updates:
        facts = update.get("facts") or {}
        if runtime := facts.get("runtime"):
            module = [facts["abi"], f"module {facts['module_sha256'][:8]}…"] if "module_sha256" in facts else []
            told[facts["node_name"]] = ", ".join([runtime, *module])
    return [f"{site} {how}" for site, how in sorted(told.items())]


def travelling(model: Mapping[str, Any]) -> str | None:
    """Say what travels of a model of which a part is trained; None where all of it does.

    model: as GET /runs/{id} has it in `opened`.
    """
    whole, whole_bytes = model.get("whole_parameters"), model.get("whole_size_bytes")
    if not whole or not whole_bytes:
        return None
    part, part_bytes = model["parameters"], model["size_bytes"]
    share = f"{part:,} of {whole:,} parameters ({100 * part / whole:.1f} %)"
    return f"adapters {share}, {size(part_bytes)} instead of {size(whole_bytes)} a message"
