"""One ClientApp for one message: what flwr-clientapp does, in this process, tied to its SuperNode.

`python -m flower_runtime.clientapp PARENT_PID HOST:PORT TOKEN_FILE`, started by flower_runtime.supernode. Flower's function is
called, not its command, which imports a whole SuperNode first: 2.2 s of CPU before a message is looked at, instead of 1.3 s.
"""

import sys
import sysconfig
from collections.abc import Collection
from pathlib import Path

from flower_runtime.parent import die_with_parent
from flower_runtime.patch import ask_objects_soon, log_plainly, original, retry_soon
from flower_runtime.pins import PINS
from flower_runtime.procfile import write_json
from flower_runtime.selfcheck import faults

_RUN = "flwr.supernode.runtime.run_clientapp"


def main() -> None:
    """Work on the message that the token file stands for, and exit as flwr-clientapp does."""
    parent_pid, runtime_api, token_file = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    die_with_parent(parent_pid)
    changed = prepare()
    if changed:
        print(f"this Flower is not the one we patch ({'; '.join(changed)}): the ClientApp runs as stock", flush=True)
        sys.argv = ["flwr-clientapp", "--insecure", "--runtime-api-address", runtime_api, "--token-file", str(token_file)]
        original("flwr.supernode.cli.flwr_clientapp", "flwr_clientapp")()
    else:
        work(runtime_api, token_file, [])


def prepare() -> list[str]:
    """Import Flower's ClientApp and put our shorter waits into it; if it is not as pinned, only say what differs."""
    changed = faults(PINS["clientapp"])
    if not changed:
        log_plainly()
        retry_soon()
        ask_objects_soon(_RUN, "pull_and_inflate_object_from_tree")
    return changed


def work(runtime_api: str, token_file: Path, preloaded: Collection[str]) -> None:
    """Run the ClientApp, once prepared, and leave beside the token file which modules it needed beyond the preloaded."""
    token = token_file.read_text(encoding="ascii")
    token_file.unlink()
    sys.argv = ["flwr-clientapp"]
    try:
        original(_RUN, "run_clientapp")(
            runtime_api_address=runtime_api, token=token, insecure=True, runtime_dependency_install=False
        )
    finally:
        needed = installed_modules()
        if not set(needed) <= set(preloaded):
            write_json(token_file.with_name("modules.json"), needed)


def installed_modules() -> list[str]:
    """Name the imported modules of installed packages, parents first; an app's own modules are not among them."""
    roots = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return [name for name, file in files.items() if isinstance(file, str) and file.startswith(roots)]


if __name__ == "__main__":
    main()
