"""A ServerApp that leaves what a run leaves, without training."""
