"""Replacements in Flower that several parts share. Every name they touch stands in selfcheck.py."""

import functools
import importlib
import time
from pathlib import Path
from typing import Any

LONGEST_RETRY_S = 2
PUSH_EXPIRES_S = 180  # without a new object for so long, SuperLink forgets a message of which it has a part
# An object may be asked for before it is there. Stock waits 1, 2, 4 … 10 s between tries and gives up after 500.
OBJECT_BACKOFF: dict[str, Any] = {"initial_backoff": 0.2, "backoff_cap": 1.0, "max_tries_per_object": 100_000}


def replace(module: str, name: str, value: object) -> None:
    """Put a value under a name of one of Flower's modules."""
    setattr(importlib.import_module(module), name, value)


def original(module: str, name: str) -> Any:
    """Give what stands under a name of one of Flower's modules."""
    return getattr(importlib.import_module(module), name)


def log_plainly() -> None:
    """Have Flower's log lines without colours: they go to files."""
    original("flwr.supercore.logger", "update_console_handler")(colored=False)


def retry_soon() -> None:
    """Cap the waits after an outage at 2 s. Stock: up to 20 s, so a run outlives a SuperLink's restart only by luck."""
    replace("flwr.supercore.retry.http_retry", "MAX_RETRY_DELAY", LONGEST_RETRY_S)
    exponential = original("flwr.supercore.heartbeat", "exponential")
    replace("flwr.supercore.heartbeat", "exponential", lambda max_delay: exponential(max_delay=min(max_delay, LONGEST_RETRY_S)))


def take_stored_for_pushed(client: Any) -> None:
    """Have a client of SuperLink take an object for pushed that is there already.

    A SuperLink that is killed after it has stored an object and before it says so refuses it when it is pushed again. Stock
    gives up then: a ServerApp ends, and a reply whose head is there stays without its objects for three minutes.
    """
    push, question = client.PushObject, original("flwr.proto.message_pb2", "PullObjectRequest")

    def push_object(this: Any, request: Any) -> Any:
        begin = time.monotonic()
        answer = push(this, request)
        if not answer.stored:
            there = this.PullObject(question(node=request.node, run_id=request.run_id, object_id=request.object_id))
            fetched = not there.object_found and time.monotonic() - begin < PUSH_EXPIRES_S
            answer.stored = there.object_available or fetched
        return answer

    client.PushObject = push_object


def ask_objects_soon(module: str, name: str) -> None:
    """Shorten the waits of a function that pulls objects."""
    replace(module, name, functools.partial(original(module, name), **OBJECT_BACKOFF))


def forget_token_file(module: str) -> None:
    """Delete the file that held a task's token once Flower's command has read it."""
    obtain = original(module, "try_obtain_flwr_app_token")

    def obtain_and_forget(args: Any) -> Any:
        token = obtain(args)
        if args.token_file is not None:
            Path(args.token_file).unlink(missing_ok=True)
        return token

    replace(module, "try_obtain_flwr_app_token", obtain_and_forget)
