"""Our SuperLink, killed when it has done what is asked, before it answers: once for each of six kinds of request.

`python mortal_superlink.py DEATHS <arguments of flower_runtime.superlink>`; DEATHS is a file with a line for each death.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from flower_runtime import redelivery, superlink
from flower_runtime.patch import original, replace

FLEET, RUNTIME = "flwr.superlink.servicer.fleet.fleet_handlers", "flwr.superlink.servicer.runtime.runtime_handlers"
REQUESTS = [
    *((RUNTIME, name) for name in ("push_object", "pull_messages", "confirm_message_received")),
    *((FLEET, name) for name in ("pull_messages", "push_messages", "push_object")),
]


def die_once(deaths: Path, module: str, name: str) -> None:
    handler, line = original(module, name), f"{module}.{name}\n"

    def handle(*what: Any, **rest: Any) -> Any:
        answer = handler(*what, **rest)
        matters = name != "pull_messages" or bool(answer.messages_list)
        if matters and line not in deaths.read_text():
            with deaths.open("a") as file:
                file.write(line)
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    replace(module, name, handle)


def main() -> None:
    deaths, install = Path(sys.argv.pop(1)), redelivery.install

    def install_and_die() -> None:
        install()
        for module, name in REQUESTS:
            die_once(deaths, module, name)

    redelivery.install = install_and_die
    superlink.main()


if __name__ == "__main__":
    main()
