"""Which models of a run stay: checkpoints every few rounds, the best so far, the final one; and which go again.

A model is kept by its file and then its journal line, and let go by its line and then its file, after what replaces it is
kept: whenever a crash comes, what the journal says is there is there.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from flower_app.config import RunConfig
from flower_app.journal import Journal, Record
from flower_app.run_directory import RunDirectory
from flower_app.tensor_file import write_tensors
from flower_app.workloads.interface import Arrays

CHECKPOINT, BEST, FINAL = "checkpoint", "best", "final"
SERVER, CLIENTS = "server", "clients"


@dataclass(frozen=True)
class Score:
    """How good the model after a round is; by: "server" (its own evaluation) or "clients" (mean of the sites')."""

    round: int
    metric: str
    value: float
    by: str

    def record(self) -> dict[str, str | float]:
        """Give the `score` of an `artifact` record, whose round is the score's."""
        return {"metric": self.metric, "value": self.value, "by": self.by}


def score_of(record: Record, metric: str) -> Score | None:
    """Read a score from a `round.closed` or `round.scored` record; None where nobody measured a committed model.

    The server's counts over the clients'. The server measures the model that the round made, and so do sites that are asked to
    score it; in a train message sites measure the model that came to them, the one after the round before. A value that is not
    finite is none.
    """
    number = int(record["round"])
    scored = number if record["kind"] == "round.scored" else number - 1
    for round_scored, values, name, by in (
        (number, record.get("server_metrics", {}), metric, SERVER),
        (scored, record["metrics"], f"eval_{metric}", CLIENTS),
    ):
        value = values.get(name) if metric else None
        if value is not None and math.isfinite(value) and round_scored >= 1:
            return Score(round_scored, metric, float(value), by)
    return None


@dataclass(frozen=True)
class Wants:
    """What a run config says of keeping; 0 and the empty metric switch a rule off."""

    checkpoint_every: int
    keep_checkpoints: int
    milestones_every: int
    best_metric: str
    best_mode: str

    @classmethod
    def of(cls, config: RunConfig) -> "Wants":
        """Take the keys of these names."""
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})

    def is_checkpoint(self, number: int) -> bool:
        """Is the model after this round to be kept?"""
        return bool(self.checkpoint_every) and number % self.checkpoint_every == 0

    def is_better(self, score: Score, best: Score | None) -> bool:
        """Is this a new best? Scores of another metric do not compare, nor do a server's and the sites': the server's wins."""
        if best is None or best.metric != score.metric:
            return True
        if best.by != score.by:
            return score.by == SERVER
        return score.value > best.value if self.best_mode == "max" else score.value < best.value

    def stays(self, number: int, newest: Iterable[int]) -> bool:
        """Does the checkpoint of this round stay? newest: the rounds of the last `keep-checkpoints` ones."""
        is_milestone = self.milestones_every > 0 and number % self.milestones_every == 0
        return self.keep_checkpoints == 0 or is_milestone or number in newest


class KeptModels:
    """The models below models/ of one run directory, as its journal has them."""

    def __init__(self, directory: RunDirectory, journal: Journal, past: Iterable[Record]) -> None:
        """past: what earlier attempts wrote; a file whose removal a crash cut short is removed now."""
        self._directory, self._journal = directory, journal
        self._ever: set[tuple[str, int]] = set()
        self._there: dict[str, Record] = {}
        gone: set[str] = set()
        for record in past:
            if record["kind"] == "artifact":
                self._ever.add((record["role"], record["round"]))
                self._there[record["path"]] = record
                gone.discard(record["path"])
            elif record["kind"] == "artifact.removed":
                self._there.pop(record["path"], None)
                gone.add(record["path"])
        for path in gone:
            (directory.root / path).unlink(missing_ok=True)

    def best_score(self) -> Score | None:
        """Give the score of the best model so far, of this attempt or an earlier one."""
        best = [record for record in self._of(BEST) if record.get("score")]
        return Score(round=best[-1]["round"], **best[-1]["score"]) if best else None

    def keep(self, role: str, number: int, arrays: Arrays, parent: str, score: Score | None = None) -> None:
        """Keep the model of a committed round; what an earlier attempt kept is not kept twice. parent: its commit's sha256."""
        if (role, number) in self._ever:
            return
        name = {CHECKPOINT: f"round_{number:04}", BEST: f"best_{number:04}"}.get(role, FINAL)
        written = write_tensors(self._directory.models / f"{name}.safetensors", arrays, {"round": str(number)})
        path = written.path.relative_to(self._directory.root).as_posix()
        self._there.pop(path, None)
        self._there[path] = self._journal.append(
            "artifact",
            {
                "name": name,
                "role": role,
                "path": path,
                "sha256": written.sha256,
                "size_bytes": written.size_bytes,
                "format": "safetensors",
                "round": number,
                "parents": [parent],
                "score": score.record() if score else None,
            },
            durable=True,
        )
        self._ever.add((role, number))

    def let_go(self, wants: Wants) -> None:
        """Remove the best models before the last one, and the checkpoints that are to stay no longer."""
        checkpoints = self._of(CHECKPOINT)
        newest = sorted(record["round"] for record in checkpoints)[-wants.keep_checkpoints :]
        going = self._of(BEST)[:-1] + [record for record in checkpoints if not wants.stays(record["round"], newest)]
        for record in going:
            fields = {name: record[name] for name in ("name", "role", "path", "sha256", "round")}
            self._journal.append("artifact.removed", fields, durable=True)
            del self._there[record["path"]]
            (self._directory.root / record["path"]).unlink(missing_ok=True)

    def _of(self, role: str) -> list[Record]:
        """Give those that are there, in the order in which they were kept."""
        return [record for record in self._there.values() if record["role"] == role]
