"""Resume: whatever kills the ServerApp, the next attempt goes on after the last committed round."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flower_app.commit import CommitDamaged
from flower_app.journal import Journal, JournalBusy
from flower_app.record import RunMismatch
from flwr.supercore.run import RunNotRunningException
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from tests.flower_app.conftest import Federation, MakeFederation


class Killed(BaseException):
    """What kill -9 is to this process: nothing after it runs, but for what the operating system does itself."""


@contextmanager
def killed_at(step: int) -> Iterator[list[str]]:
    """Die at the step-th call that changes the disk: half a line, a rename or its absence, an unsynced file."""
    done: list[str] = []
    real: dict[str, Any] = {"write": os.write, "fsync": os.fsync}

    def dying(name: str) -> Any:
        def call(descriptor: int, *data: bytes) -> Any:
            done.append(name)
            if len(done) == step:
                if name == "write":
                    real["write"](descriptor, data[0][: len(data[0]) // 2])
                raise Killed
            if len(done) > step:
                raise Killed  # dead is dead: no end line is written
            return real[name](descriptor, *data)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.write", dying("write"))
        patch.setattr("os.fsync", dying("fsync"))
        yield done


def test_the_next_attempt_goes_on_after_the_last_committed_round(make_federation: MakeFederation) -> None:
    federation = make_federation(num_rounds=5, checkpoint_every=2)
    federation.clock.after(2.5, lambda: federation.want("stop"))
    federation.run(attempt=1)
    federation.want("run")
    federation.run(attempt=2)
    opened = federation.journal("run.opened")
    assert [(record["attempt"], record["resumed_after"]) for record in opened] == [("1", 0), ("2", 2)]
    assert [(record["round"], record["attempt"]) for record in federation.journal("round.closed")] == [
        (1, "1"), (2, "1"), (3, "2"), (4, "2"), (5, "2"),
    ]  # fmt: skip
    assert [record["seq"] for record in federation.journal()] == list(range(1, len(federation.journal()) + 1))
    assert [entry["round"] for entry in federation.read("history.json")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_a_run_killed_at_any_write_ends_as_an_undisturbed_one(make_federation: MakeFederation, strategy: str) -> None:
    """Each step of a run of two rounds that touches the disk, one after the other."""
    config = {"num_rounds": 2, "checkpoint_every": 1, "keep_checkpoints": 1, "strategy": strategy}
    undisturbed = make_federation("undisturbed", **config)
    undisturbed.run()
    steps = 0
    for step in range(1, 200):
        federation = make_federation(f"killed at {step}", **config)
        with killed_at(step) as done:
            try:
                federation.run(attempt=1)
            except Killed:
                pass
            else:
                steps = len(done)
                break
        federation.run(attempt=2)
        assert_equal_runs(federation, undisturbed)
    assert 40 < steps < 80


def assert_equal_runs(federation: Any, undisturbed: Any) -> None:
    assert [record["seq"] for record in federation.journal()] == list(range(1, len(federation.journal()) + 1))
    closed, expected = federation.journal("round.closed"), undisturbed.journal("round.closed")
    assert [(each["round"], each["num_examples"]) for each in closed] == [(each["round"], 60) for each in expected]
    assert [each["commit"]["sha256"] for each in closed] == [each["commit"]["sha256"] for each in expected]
    assert [each["server_metrics"] for each in closed] == [each["server_metrics"] for each in expected]
    assert len(federation.journal("artifact")) == len({each["name"] for each in federation.journal("artifact")}) == 5
    assert [each["name"] for each in federation.journal("artifact.removed")] == ["best_0001", "round_0001"]
    assert sorted(path.name for path in (federation.root / "models").glob("*")) == [
        "best_0002.safetensors", "final.safetensors", "round_0002.safetensors",
    ]  # fmt: skip
    assert federation.journal()[-1]["status"] == "completed"
    final, wanted = (load_file(each.root / "models/final.safetensors") for each in (federation, undisturbed))
    np.testing.assert_array_equal(final["weight"], wanted["weight"])
    history = [{**entry, "attempt": "", "closed_at": ""} for entry in federation.read("history.json")]
    assert [entry["accuracy"] for entry in history] == [entry["accuracy"] for entry in undisturbed.read("history.json")]
    for path in undisturbed.root.rglob("*.json"):
        assert (federation.root / path.relative_to(undisturbed.root)).is_file()
    assert not list(federation.root.rglob(".round-*"))


def test_a_commit_without_its_line_never_happened(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    real_append = Journal.append

    def dies_at_the_line(self: Journal, kind: str, *args: Any, **kwargs: Any) -> Any:
        if kind == "round.closed":
            raise Killed
        return real_append(self, kind, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", dies_at_the_line)
        with pytest.raises(Killed):
            federation.run(attempt=1)
    assert (federation.root / "commit/round-1.safetensors").is_file()
    federation.run(attempt=2)
    assert federation.journal("run.opened")[1]["resumed_after"] == 0
    assert [record["round"] for record in federation.journal("round.closed")] == [1, 2, 3]


def test_a_completed_run_with_more_rounds_wanted_goes_on(federation: Federation) -> None:
    federation.run(attempt=1)
    federation.run_config["num-rounds"] = 4
    federation.grid.run_config["num-rounds"] = 4
    federation.run(attempt=2)
    assert [record["round"] for record in federation.journal("round.closed")] == [1, 2, 3, 4]
    assert [each["round"] for each in federation.journal("artifact") if each["role"] == "final"] == [3, 4]


def test_a_completed_run_started_again_trains_nothing(federation: Federation) -> None:
    federation.run(attempt=1)
    federation.run(attempt=2)
    assert [record["kind"] for record in federation.journal() if record["attempt"] == "2"] == ["run.opened", "run.closed"]
    assert federation.journal()[-1]["status"] == "completed"


def test_a_damaged_commit_is_told_and_nothing_is_repeated(federation: Federation) -> None:
    federation.run(attempt=1)
    path = federation.root / "commit/round-3.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CommitDamaged, match=r"round-3\.safetensors is not the file that the journal committed"):
        federation.run(attempt=2)
    assert federation.journal()[-1]["cause"]["type"] == "CommitDamaged"
    assert federation.journal()[-1]["last_round"] == 3
    path.unlink()
    with pytest.raises(CommitDamaged, match=r"round-3\.safetensors is missing"):
        federation.run(attempt=3)


def test_another_workload_cannot_go_on_with_a_run(federation: Federation) -> None:
    federation.run(attempt=1)
    federation.run_config["workload"] = "digits"
    with pytest.raises(RunMismatch, match='holds a run with workload "toy_workload:Toy", not "digits"'):
        federation.run(attempt=2)


def test_a_second_serverapp_on_the_same_run_ends_and_writes_nothing(federation: Federation) -> None:
    federation.run(attempt=1)
    before = (federation.root / "journal.jsonl").read_bytes()
    holder = Journal(federation.root / "journal.jsonl", "1", federation.clock)
    with pytest.raises(JournalBusy):
        federation.run(attempt=2)
    holder.close()
    assert (federation.root / "journal.jsonl").read_bytes() == before


def test_an_end_by_flower_writes_no_end_line_and_the_next_attempt_goes_on(federation: Federation) -> None:
    def ended() -> None:
        raise SystemExit(0)  # what Flower's handler does after StopRun or TERM

    federation.clock.after(1.5, ended)
    with pytest.raises(SystemExit):
        federation.run(attempt=1)
    assert not federation.journal("run.closed")
    assert "final" not in [each["role"] for each in federation.journal("artifact")]
    federation.run(attempt=2)
    assert [record["round"] for record in federation.journal("round.closed")] == [1, 2, 3]


@pytest.mark.parametrize("error", [SystemExit, RunNotRunningException])
def test_an_end_by_flower_after_a_wanted_stop_is_a_stop_and_the_last_model_stays(
    federation: Federation, error: type[BaseException]
) -> None:
    def ended() -> None:
        federation.want("stop")
        raise error

    federation.clock.after(1.5, ended)
    with pytest.raises(error):
        federation.run(attempt=1)
    *_, artifact, closed = federation.journal()
    assert (closed["kind"], closed["status"]) == ("run.closed", "stopped")
    assert (artifact["kind"], artifact["role"], artifact["round"]) == ("artifact", "final", 1)
