"""Texts with labels and groups, and as tokens, padded no further than a batch needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flower_app.workloads.partition import Examples, Indices, Labels

IGNORED = -100
"""A label that no loss counts, as transformers has it."""


@dataclass(frozen=True)
class Texts:
    """Texts, each with a label (int64; 0 where there are none) and the group that it comes from.

    prompts: what a text is the completion of, None where it stands alone; empty where none has one.
    """

    texts: Sequence[str]
    labels: Labels
    groups: NDArray[Any]
    prompts: Sequence[str | None] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def at(self, indices: Indices) -> "Texts":
        """Give some of them, in that order."""
        prompts = [self.prompts[index] for index in indices] if self.prompts else ()
        return Texts([self.texts[index] for index in indices], self.labels[indices], self.groups[indices], prompts)

    def places(self) -> Examples:
        """Give what a partitioner deals out: for each text its place, label and group."""
        return Examples(np.arange(len(self), dtype=np.float32)[:, None], self.labels, self.groups)


@dataclass(frozen=True)
class Tokens:
    """Token ids of texts, and how they are padded; counted: from which token on the loss counts, for each text."""

    ids: Sequence[Sequence[int]]
    pad_id: int
    counted_from: Sequence[int]

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, places: Sequence[int], device: torch.device) -> dict[str, torch.Tensor]:
        """Give `input_ids`, `attention_mask` (places, longest) and, for a language model, `labels`, IGNORED where none counts."""
        rows = [self.ids[place] for place in places]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.pad_id)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for number, (place, row) in enumerate(zip(places, rows, strict=True)):
            ids[number, : len(row)] = torch.tensor(row)
            mask[number, : len(row)] = 1
            start = self.counted_from[place]
            labels[number, start : len(row)] = ids[number, start : len(row)]
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}

    def by_length(self, size: int) -> list[list[int]]:
        """Give all places in batches of texts of like length, so that little is padded."""
        order = sorted(range(len(self.ids)), key=lambda place: len(self.ids[place]))
        return [order[first : first + size] for first in range(0, len(order), size)]
