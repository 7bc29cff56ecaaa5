"""The ServerApp: it hands over to the round engine."""

import os

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from flower_app.attempt import conduct
from flower_app.clock import SystemClock

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one attempt of a run."""
    conduct(grid, context.run_config, context.run_id, os.environ, SystemClock())
