"""How long Flower's clients wait between two tries while the SuperLink is away, by themselves and under our launchers."""

import json
import subprocess
import sys

WAITS = """
import itertools, json, sys
if "ours" in sys.argv:
    from flower_runtime.patch import retry_soon
    retry_soon()
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.retry import make_simple_http_retry_invoker
invokers = [make_simple_http_retry_invoker(), HeartbeatSender(lambda: True)._retry_invoker]
print(json.dumps([max(itertools.islice(each.wait_gen_factory(), 12)) for each in invokers]))
"""


def longest_waits(*who: str) -> list[float]:
    """Give the longest of the first twelve waits of a call and of a heartbeat, before chance shortens them."""
    said = subprocess.run([sys.executable, "-c", WAITS, *who], capture_output=True, text=True, check=True, timeout=60)
    return list(json.loads(said.stdout))


def test_flowers_own_waits_are_longer_than_a_restart_of_the_superlink() -> None:
    assert min(longest_waits()) > 10, "then our cap is not needed any more"


def test_our_launchers_wait_for_two_seconds_at_most() -> None:
    assert max(longest_waits("ours")) <= 2
