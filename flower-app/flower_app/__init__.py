"""Espalier's Flower app: the round engine, strategies and workloads that travel to the nodes."""
