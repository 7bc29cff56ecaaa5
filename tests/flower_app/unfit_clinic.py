"""A classifier whose examples have the fault that the run config names."""

from pathlib import Path

import numpy as np
from flower_app.workloads.classifier import Classifier
from flower_app.workloads.partition import Examples
from torch import nn


class Clinic(Classifier):
    """Two measures, two classes, 90 patients of three wards."""

    name = "clinic"

    def load(self, cache_dir: Path | None) -> Examples:
        random = np.random.default_rng(3)
        x = random.normal(size=(90, 2))
        labels, wards = (x.sum(1) > 0).astype(np.int64), np.repeat(["a", "b", "c"], 30)
        fault = self.config.values.get("fault")
        if fault == "empty":
            return Examples(x[:0], labels[:0], wards[:0])
        if fault == "one class":
            labels[:] = 1
        if fault == "one class in a ward":
            labels[:30] = 0
        if fault == "not finite":
            x[[3, 40, 41, 80], 1] = np.nan, np.inf, -np.inf, np.nan
        if fault == "a row is missing":
            x = x[:-1]
        if fault == "negative":
            labels[5] = -1
        if fault == "no output":
            labels[5] = 2
        if fault == "shares":
            labels = labels / 2
        if fault == "names":
            x = x.astype(str)
        if fault == "too large":
            x[[3, 40], 1] = 1e39, -1e39
        if fault == "one of each":
            labels = np.eye(2, dtype=np.int64)[labels]
        if fault == "wide":
            x = np.hstack([x, x])
        return Examples(x, labels, wards)

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2))
