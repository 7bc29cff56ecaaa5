"""The engine of flower_app, for another workload; says its environment when asked to."""

import os

from flower_app.server_app import app

__all__ = ["app"]

print("ENVIRONMENT " + " ".join(f"{key}={value}" for key, value in sorted(os.environ.items())), flush=True)
