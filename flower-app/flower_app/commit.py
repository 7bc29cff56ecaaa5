"""commit/round-<n>.safetensors: the model after round n and the strategy's own state, made durable before the round's line."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flower_app.tensor_file import WrittenFile, read_tensors, sha256_of, write_tensors
from flower_app.workloads.interface import Arrays

MODEL, STATE = "model/", "strategy/"
KEPT = 2


class CommitDamaged(RuntimeError):
    """The file of the last committed round is not what the journal says."""


@dataclass(frozen=True)
class Commit:
    """A round that happened: model and strategy state after it."""

    round: int
    arrays: Arrays
    state: Arrays


class CommitFolder:
    """The committed rounds of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, commit: Commit, strategy: str) -> WrittenFile:
        """Put the round on disk; it counts only once the journal has its line."""
        named = {MODEL + name: values for name, values in commit.arrays.items()}
        named |= {STATE + name: values for name, values in commit.state.items()}
        metadata = {"espalier": json.dumps({"round": commit.round, "strategy": strategy})}
        return write_tensors(self._folder / f"round-{commit.round}.safetensors", named, metadata)

    def read(self, round_number: int, line: dict[str, Any]) -> Commit:
        """Load the round that a `round.closed` line commits.

        line: its commit {file, sha256, size_bytes}. Raises CommitDamaged.
        """
        path = self._folder / Path(line["file"]).name
        if not path.is_file():
            raise CommitDamaged(f"round {round_number} is in the journal but {path} is missing")
        if sha256_of(path) != line["sha256"]:
            raise CommitDamaged(f"{path} is not the file that the journal committed: its sha256 differs")
        tensors, _ = read_tensors(path)
        return Commit(round_number, _below(MODEL, tensors), _below(STATE, tensors))

    def forget_before(self, round_number: int) -> None:
        """Remove what is older than the last two, and what a crash left half written."""
        for path in self._folder.glob(".round-*"):
            path.unlink(missing_ok=True)
        for path in self._folder.glob("round-*.safetensors"):
            found = re.fullmatch(r"round-(\d+)\.safetensors", path.name)
            if found and int(found[1]) <= round_number - KEPT:
                path.unlink(missing_ok=True)


def _below(prefix: str, tensors: Arrays) -> Arrays:
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
