"""Flower's own commands: what a launcher turns into when this Flower is not the one that it was written for."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn


def become(command: str, arguments: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by Flower's command, the one of this Python first. Keeps the pid and the output files."""
    beside = Path(sys.executable).parent / command
    path = str(beside) if beside.exists() else shutil.which(command)
    if path is None:
        print(f"{command} is not installed beside {sys.executable} nor on PATH", flush=True)
        sys.exit(2)
    sys.stdout.flush()
    os.execve(path, [command, *arguments], dict(environment))  # noqa: S606 - arguments are our own supervisor's


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line at the first `--`: our arguments, Flower's arguments."""
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def option(arguments: Sequence[str], name: str, default: str) -> str:
    """Give the value of `name value` or `name=value` in Flower's arguments, the last one if repeated."""
    value = default
    for index, word in enumerate(arguments):
        if word == name and index + 1 < len(arguments):
            value = arguments[index + 1]
        elif word.startswith(f"{name}="):
            value = word.partition("=")[2]
    return value
