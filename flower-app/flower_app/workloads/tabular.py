"""`tabular`: a small network, or logistic regression, on the 569 breast tumours (Wisconsin) that scikit-learn ships."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flower_app.workloads.classifier import Classifier
from flower_app.workloads.partition import Examples
from flower_app.workloads.sklearn_table import load_table

if TYPE_CHECKING:
    import torch

FEATURES = 30


class Tabular(Classifier):
    """fc(hidden-size) - fc2, 1058 parameters with 32; with hidden-size 0 one layer, which is logistic regression."""

    name = "tabular"
    no_natural_key = "scikit-learn does not say which clinic a tumour comes from"
    same_everywhere = "scikit-learn brings them"

    def load(self, cache_dir: Path | None) -> Examples:
        """Give the measures of each tumour, float32 (569, 30), and its label: 1 malignant, 0 benign.

        Each measure has mean 0 and variance 1 over what the sites share out; the test split has no say in it.
        Raises DataMissing.
        """
        table = load_table("breast_cancer.csv", np.float64, cache_dir, head_lines=1)
        measures, labels = table[:, :FEATURES], 1 - table[:, FEATURES].astype(np.int64)
        shared = measures[self.split(labels)[0]]
        return Examples(((measures - shared.mean(0)) / shared.std(0)).astype(np.float32), labels)

    def build(self) -> "torch.nn.Module":
        """Make the network."""
        from torch import nn

        width = self.config.hidden_size
        if not width:
            return nn.Sequential(nn.Linear(FEATURES, 2))
        return nn.Sequential(nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, 2))
