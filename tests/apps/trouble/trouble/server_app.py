"""The engine of flower_app, for another workload; says its environment, and waits to be killed when asked to."""

import os
import time

from flower_app import server_app
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from trouble.workload import is_the_time_for

app = ServerApp()

print("ENVIRONMENT " + " ".join(f"{key}={value}" for key, value in sorted(os.environ.items())), flush=True)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one attempt of a run."""
    if is_the_time_for("server-waits-once", context.run_config["trouble"]):  # before there is a journal
        time.sleep(600)
    server_app.main(grid, context)
