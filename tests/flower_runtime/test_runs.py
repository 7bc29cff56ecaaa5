"""Whole runs through SuperLink, executor and two nodes: what is written where, and how failures come home."""
import json

def test_a_run_completes(stack):
    run = stack.begin("echo", rounds=5)
    assert stack.wait_end(run) == "completed"
    print(stack.home)
    print((stack.run_dir(run)/"rounds.json").read_text())
