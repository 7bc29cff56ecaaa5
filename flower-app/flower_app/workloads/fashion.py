"""`fashion`: a convolutional network on the 70 000 pictures of clothes of Fashion-MNIST, which Debian packages."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flower_app.config import ConfigValue
from flower_app.workloads.classifier import Classifier
from flower_app.workloads.data_dirs import data_dirs, find_data
from flower_app.workloads.idx import read_idx
from flower_app.workloads.partition import Examples, Indices, Labels

if TYPE_CHECKING:
    import torch

FOLDER = "fashion-mnist"
HOW = "get it with `apt install dataset-fashion-mnist`, or name in DATA_DIRS the folder above one that has its four .gz files"

MEAN, DEVIATION = np.float32(72.94), np.float32(90.02)
"""Of the bytes of the train file."""


class Fashion(Classifier):
    """conv16 - conv32 - fc128 - fc10, 206 922 parameters. The train file is the sites', the test file the server's."""

    name = "fashion"
    no_natural_key = "nobody wrote down whose shop a picture is from"
    defaults: ClassVar[Mapping[str, ConfigValue]] = {"batch-size": 64, "local-epochs": 1}

    def load(self, cache_dir: Path | None) -> Examples:
        """Give the train file: bytes (60 000, 1, 28, 28), and labels 0..9. Raises DataMissing, DataUnfit."""
        return _read("train")

    def test_set(self) -> Examples | None:
        """Give the test file, 10 000 pictures, also where the sites' own are nobody else's. Raises DataMissing, DataUnfit."""
        return _read("t10k")

    def split(self, labels: Labels) -> tuple[Indices, Indices]:
        """Leave all of the train file to the sites."""
        return np.arange(len(labels)), np.arange(0)

    def inputs(self, x: NDArray[Any]) -> NDArray[Any]:
        """Make float32 of mean 0 and variance 1 of bytes; only of those that are used, since all would be 188 MB."""
        values: NDArray[Any] = np.subtract(x, MEAN, dtype=np.float32)
        values /= DEVIATION
        return values

    def build(self) -> "torch.nn.Module":
        """Make the network."""
        from torch import nn

        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(1568, 128), nn.ReLU(), nn.Linear(128, 10),
        )  # fmt: skip


def _read(part: str) -> Examples:
    folder = find_data(FOLDER, data_dirs(), HOW)
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", 3)
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 1)
    return Examples(images[:, None], labels.astype(np.int64))
