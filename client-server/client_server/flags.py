"""What a start request may add to flower-supernode's command line."""

import re
from collections.abc import Sequence
from pathlib import Path

from control_plane.files import is_file

from client_server.errors import StartRequestRefused
from client_server.schemas import SupernodeStartRequest

EXTRA_FLAGS = {"--max-retries": int, "--max-wait-time": float, "--trusted-entities": str}
"""Flags of flower-supernode that may be added, and what their value is; none of them undoes TLS, the key or the isolation."""

RESERVED_KEYS = {"partition-id": "partition_id", "num-partitions": "num_partitions", "node-name": "PARTICIPANT_NODE_NAME"}
_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_INT64 = range(-(2**63), 2**63)


def check_extra_args(extra_args: Sequence[str]) -> None:
    """Refuse the first flag that is not in EXTRA_FLAGS, or whose value is missing or of another type."""
    rest = list(extra_args)
    while rest:
        flag, given, value = rest.pop(0).partition("=")
        if flag not in EXTRA_FLAGS:
            allowed = ", ".join(EXTRA_FLAGS)
            raise StartRequestRefused(
                f"extra_args: {flag[:100]!r} is not allowed; these are: {allowed}.", field="extra_args", flag=flag[:100]
            )
        if not given:
            value = rest.pop(0) if rest else ""
        try:
            wrong = not value or value.startswith("--") or EXTRA_FLAGS[flag](value) in ("",)
        except ValueError:
            wrong = True
        if wrong:
            raise StartRequestRefused(
                f"extra_args: {flag} needs a value of type {EXTRA_FLAGS[flag].__name__}.", field="extra_args", flag=flag
            )
        if EXTRA_FLAGS[flag] is str and not is_file(Path(value)):
            raise StartRequestRefused(f"extra_args: {flag} names a file that is not there.", field="extra_args", flag=flag)


def node_config(request: SupernodeStartRequest, node_name: str) -> str:
    """Write --node-config as Flower parses it: key=value by blanks, values in TOML, strings in either quote."""
    values: dict[str, bool | int | float | str] = {}
    if request.partition_id is not None and request.num_partitions is not None:
        values |= {"partition-id": request.partition_id, "num-partitions": request.num_partitions}
    values["node-name"] = node_name
    for key, value in request.node_config.items():
        if key in RESERVED_KEYS:
            raise StartRequestRefused(f"node_config: {key} is set by {RESERVED_KEYS[key]}.", field="node_config", key=key)
        if not _KEY.fullmatch(key):
            raise StartRequestRefused(
                f"node_config: the key {key[:100]!r} is not made of letters, digits, dash and underscore.",
                field="node_config",
                key=key[:100],
            )
        values[key] = value
    return " ".join(f"{key}={_toml(key, value)}" for key, value in values.items())


def _toml(key: str, value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value not in _INT64:
        raise StartRequestRefused(f"node_config: {key} does not fit 64 bits.", field="node_config", key=key)
    if not isinstance(value, str):
        return repr(value)
    # Flower's pattern ends a string at the first quote of its kind, whatever stands before it.
    quote = next((quote for quote in "\"'" if quote not in value), None)
    if quote is None or not value.isprintable():
        raise StartRequestRefused(
            f"node_config: the text of {key} has both kinds of quotes, or characters that do not print.",
            field="node_config",
            key=key,
        )
    return f'"{value}"'.replace("\\", "\\\\") if quote == '"' else f"'{value}'"
