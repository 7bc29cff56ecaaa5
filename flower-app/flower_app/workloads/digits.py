"""`digits`: a small convolutional network on the 1797 handwritten digits that scikit-learn ships."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flower_app.workloads.classifier import Classifier
from flower_app.workloads.partition import Examples
from flower_app.workloads.sklearn_table import load_table

if TYPE_CHECKING:
    import torch


class Digits(Classifier):
    """conv16 - conv32 - fc64 - fc10, 13 706 parameters."""

    name = "digits"
    no_natural_key = "scikit-learn does not say who wrote which digit"
    same_everywhere = "scikit-learn brings them"

    def load(self, cache_dir: Path | None) -> Examples:
        """Give the images, float32 (1797, 1, 8, 8) in 0..1, and their labels 0..9. Raises DataMissing."""
        table = load_table("digits.csv.gz", np.uint8, cache_dir)
        images = (table[:, :64].reshape(-1, 1, 8, 8) / np.float32(16)).astype(np.float32)
        return Examples(images, table[:, 64].astype(np.int64))

    def build(self) -> "torch.nn.Module":
        """Make the network."""
        from torch import nn

        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
