"""One ClientApp for one message: Flower's flwr-clientapp in this process, tied to its SuperNode.

`python -m flower_runtime.clientapp PARENT_PID <flwr-clientapp args>`, started by flower_runtime.supernode.
"""

import sys

from flower_runtime.parent import die_with_parent
from flower_runtime.patch import ask_objects_soon, forget_token_file, log_plainly, original, retry_soon
from flower_runtime.pins import PINS
from flower_runtime.selfcheck import faults

_COMMAND = "flwr.supernode.cli.flwr_clientapp"


def main() -> None:
    """Work on the message that the token file stands for, and exit as flwr-clientapp does."""
    die_with_parent(int(sys.argv[1]))
    sys.argv = ["flwr-clientapp", *sys.argv[2:]]
    changed = faults(PINS["clientapp"])
    if changed:
        print(f"this Flower is not the one we patch ({'; '.join(changed)}): the ClientApp runs as stock", flush=True)
    else:
        log_plainly()
        retry_soon()
        ask_objects_soon("flwr.supernode.runtime.run_clientapp", "pull_and_inflate_object_from_tree")
        forget_token_file(_COMMAND)
    original(_COMMAND, "flwr_clientapp")()


if __name__ == "__main__":
    main()
