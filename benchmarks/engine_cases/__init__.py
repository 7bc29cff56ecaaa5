"""What the round engine costs: in one process, and through a real SuperLink."""
