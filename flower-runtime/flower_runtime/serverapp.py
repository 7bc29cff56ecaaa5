"""One ServerApp: Flower's flwr-serverapp in this process, tied to its wrapper, started by flower_runtime.wrapper.

`python -m flower_runtime.serverapp PARENT_PID <flwr-serverapp args>`
"""

import sys

from flower_runtime.arrivals import Arrivals
from flower_runtime.parent import die_with_parent
from flower_runtime.patch import forget_token_file, log_plainly, original, retry_soon, take_stored_for_pushed
from flower_runtime.pins import PINS
from flower_runtime.selfcheck import faults

_COMMAND = "flwr.superlink.cli.flwr_serverapp"


def main() -> None:
    """Run the task that the token file stands for, and exit as flwr-serverapp does."""
    die_with_parent(int(sys.argv[1]))
    sys.argv = ["flwr-serverapp", *sys.argv[2:]]
    changed = faults(PINS["serverapp"])
    if changed:
        print(f"this Flower is not the one we patch ({'; '.join(changed)}): the ServerApp runs as stock", flush=True)
    else:
        log_plainly()
        retry_soon()
        take_stored_for_pushed(original("flwr.supercore.runtime", "RuntimeHttpClient"))
        Arrivals().install()
        forget_token_file(_COMMAND)
    original(_COMMAND, "flwr_serverapp")()


if __name__ == "__main__":
    main()
