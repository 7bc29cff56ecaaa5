"""docs/journal.schema.json is what the admin server reads, and what the engine writes."""

import json
from pathlib import Path
from typing import Any

import pytest
from admin_server.journal import parse_line, schema
from jsonschema import Draft202012Validator

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "journal.schema.json"
PART = {"seq": 3, "at": "2026-11-22T08:00:00.000Z", "attempt": "18446744073709551615"}
COMMIT = {"file": "commit/round-1.safetensors", "sha256": "a" * 64, "size_bytes": 9}
CLOSED = {
    **PART,
    "kind": "round.closed",
    "round": 1,
    "counted": 2,
    "expected": 3,
    "num_examples": 10,
    "metrics": {"loss": 1},
    "server_metrics": {},
    "seconds": 1.5,
    "aggregate_s": 0,
    "bytes_down": 1,
    "bytes_up": 2,
    "commit": COMMIT,
}
ARTIFACT = {
    **PART,
    "kind": "artifact",
    "name": "final",
    "role": "final",
    "path": "models/final.safetensors",
    "sha256": "b" * 64,
    "size_bytes": 9,
    "format": "safetensors",
    "round": 1,
    "parents": [],
}
REMOVED = {
    **PART,
    "kind": "artifact.removed",
    "name": "round_0001",
    "role": "checkpoint",
    "path": "models/round_0001.safetensors",
    "sha256": "c" * 64,
    "round": 1,
}
MODEL = {"parameters": 13_706, "size_bytes": 54_824}
OPENED = {
    **PART,
    "kind": "run.opened",
    "workload": "digits",
    "strategy": "fedavg",
    "num_rounds": 3,
    "seed": 42,
    "min_available": 1,
    "resumed_after": 0,
    "model": MODEL,
    "config": {"lr": 0.05},
}
GOOD: list[dict[str, Any]] = [
    CLOSED,
    OPENED,
    {**OPENED, "model": {**MODEL, "whole_parameters": None, "whole_size_bytes": None}},
    {**OPENED, "model": {**MODEL, "whole_parameters": 22_713_986, "whole_size_bytes": 90_855_944}},
    ARTIFACT,
    {**ARTIFACT, "role": "best", "score": {"metric": "accuracy", "value": 0.9, "by": "server"}},
    REMOVED,
    {**PART, "kind": "round.opened", "round": 1, "nodes": ["1", "2"], "needed": 2},
    {**PART, "kind": "run.paused", "after_round": 0},
    {**PART, "kind": "run.closed", "status": "stopped", "last_round": 0, "cause": None},
]
BAD: list[dict[str, Any]] = [
    {**CLOSED, "round": 0},
    {**OPENED, "model": {**MODEL, "whole_parameters": -1}},
    {**OPENED, "model": {**MODEL, "whole_size_bytes": "90 MB"}},
    {**OPENED, "model": {"parameters": 1}},
    {**CLOSED, "more": 1},
    {**CLOSED, "commit": {**COMMIT, "sha256": "A"}},
    {**CLOSED, "metrics": {"loss": "low"}},
    {name: value for name, value in CLOSED.items() if name != "commit"},
    {**ARTIFACT, "path": "/etc/passwd"},
    {**ARTIFACT, "path": "models/../../x"},
    {**ARTIFACT, "role": "draft"},
    {**ARTIFACT, "score": {"metric": "accuracy", "value": 0.9, "by": "somebody"}},
    {**REMOVED, "path": "../models/round_0001.safetensors"},
    {**PART, "kind": "run.closed", "status": "running", "last_round": 0, "cause": None},
    {**PART, "kind": "unheard"},
]


def test_the_schema_in_docs_is_generated_from_the_models() -> None:
    assert json.loads(SCHEMA.read_text()) == schema(), "run `python -m admin_server.journal > docs/journal.schema.json`"


@pytest.mark.parametrize("line", GOOD)
def test_schema_and_models_take_the_same_lines(line: dict[str, Any]) -> None:
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(line)
    assert parse_line(json.dumps(line))["kind"] == line["kind"]


@pytest.mark.parametrize("line", BAD)
def test_schema_and_models_refuse_the_same_lines(line: dict[str, Any]) -> None:
    assert not Draft202012Validator(json.loads(SCHEMA.read_text())).is_valid(line)
    with pytest.raises(ValueError, match=r"."):
        parse_line(json.dumps(line))
