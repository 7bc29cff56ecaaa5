"""A round's work on arrays: reading updates, adding them up, and the commit's file."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from flower_app.accumulate import Contribution, WeightedMean
from flower_app.commit import Commit, CommitFolder
from flower_app.wire import to_record, view
from flwr.app import Array

from benchmarks.engine_cases.models import model

TIMES = 5


def median_s(work: Callable[[], object], times: int = TIMES) -> float:
    """Give the median of some times, after one that does not count."""
    work()
    took = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def aggregation_gb_s(megabytes: float) -> float:
    """Give how many GB (10^9 bytes) of updates a second go from arrays in memory into the sum."""
    arrays = model(megabytes)
    mean, update = WeightedMean(arrays), Contribution(1, arrays, 10, {}, 10.0)
    return megabytes / 1000 / median_s(lambda: mean.add(update))


def deserialising_gb_s(megabytes: float) -> float:
    """Give how many GB of updates a second go from the chunks that Flower's messages carry to numpy arrays."""
    serialised = [(array.deflate(), array.children or {}) for array in to_record(model(megabytes)).values()]
    return megabytes / 1000 / median_s(lambda: [view(Array.inflate(content, chunks)) for content, chunks in serialised])


def commit_s(megabytes: float) -> float:
    """Give the seconds that it takes to write a commit of this size, with its sha256, and to make it durable."""
    commit = Commit(1, model(megabytes), {})
    with tempfile.TemporaryDirectory() as folder:
        return median_s(lambda: CommitFolder(Path(folder)).write(commit, "fedavg"))
