"""Watching runs: Flower's word, the journal, the ServerApp's output and its process, made into rows and an outcome."""
