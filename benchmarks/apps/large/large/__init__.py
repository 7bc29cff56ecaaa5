"""A large model for the benchmarks of the engine."""
