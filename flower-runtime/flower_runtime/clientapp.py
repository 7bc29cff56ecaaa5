"""One ClientApp for one message: what flwr-clientapp does, in this process, tied to its SuperNode.

`python -m flower_runtime.clientapp PARENT_PID HOST:PORT TOKEN_FILE`, started by flower_runtime.supernode. Flower's function is
called, not its command, which imports a whole SuperNode first: 2.2 s of CPU before a message is looked at, instead of 1.3 s.
"""

import sys
from pathlib import Path

from flower_runtime.parent import die_with_parent
from flower_runtime.patch import ask_objects_soon, log_plainly, original, retry_soon
from flower_runtime.pins import PINS
from flower_runtime.selfcheck import faults

_RUN = "flwr.supernode.runtime.run_clientapp"


def main() -> None:
    """Work on the message that the token file stands for, and exit as flwr-clientapp does."""
    parent_pid, runtime_api, token_file = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    die_with_parent(parent_pid)
    changed = faults(PINS["clientapp"])
    if changed:
        print(f"this Flower is not the one we patch ({'; '.join(changed)}): the ClientApp runs as stock", flush=True)
        sys.argv = ["flwr-clientapp", "--insecure", "--runtime-api-address", runtime_api, "--token-file", str(token_file)]
        original("flwr.supernode.cli.flwr_clientapp", "flwr_clientapp")()
        return
    token = token_file.read_text(encoding="ascii")
    token_file.unlink()
    sys.argv = ["flwr-clientapp"]
    log_plainly()
    retry_soon()
    ask_objects_soon(_RUN, "pull_and_inflate_object_from_tree")
    original(_RUN, "run_clientapp")(runtime_api_address=runtime_api, token=token, insecure=True, runtime_dependency_install=False)


if __name__ == "__main__":
    main()
