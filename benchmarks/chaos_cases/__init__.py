"""The parts of `bench chaos`: whom to kill, and what the record says afterwards."""
