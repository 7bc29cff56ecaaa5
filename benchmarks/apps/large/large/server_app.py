"""The engine of flower_app."""

from flower_app.server_app import app

__all__ = ["app"]
