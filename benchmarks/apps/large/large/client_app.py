"""The ClientApp of flower_app."""

from flower_app.client_app import app

__all__ = ["app"]
