"""Nobody is asked."""

from flwr.clientapp import ClientApp

app = ClientApp()
