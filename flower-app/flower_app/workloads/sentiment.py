"""Sentences of four domains that people have rated: film reviews, newspaper, tweets, product reviews.

Source: Hutto and Gilbert 2014 (VADER), in the source distribution of the package vaderSentiment. Fetched, never vendored.
"""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from flower_app.workloads.data_dirs import find_data
from flower_app.workloads.guards import DataUnfit
from flower_app.workloads.texts import Texts

FOLDER = "vader-sentiment"
DOMAINS = {"movie": "movieReviewSnippets", "nyt": "nytEditorialSnippets", "tweets": "tweets", "amazon": "amazonReviewSnippets"}
CLEAR, HIGHEST = 0.5, 4
"""Ratings lie in -4..4; nearer to 0 than 0.5 a sentence is neither."""

HOW = "fetch it with `python -m flower_app.fetch lora-text`"


@cache
def load_sentiment(folders: tuple[Path, ...]) -> Texts:
    """Give the sentences with a clear rating, their labels (1 positive, 0 negative) and their domains.

    Raises DataMissing; DataUnfit, naming file and line.
    """
    folder = find_data(FOLDER, folders, HOW)
    files = {domain: find_data(f"{name}_GroundTruth.txt", [folder], HOW) for domain, name in DOMAINS.items()}
    rated = [(domain, *each) for domain, file in files.items() for each in _rated(file) if abs(each[0]) >= CLEAR]
    labels = np.array([int(rating > 0) for _, rating, _ in rated], np.int64)
    return Texts([text for _, _, text in rated], labels, np.array([domain for domain, _, _ in rated]))


def _rated(file: Path) -> Iterator[tuple[float, str]]:
    """Give rating and sentence of each line: number, rating, sentence, tabs in between."""
    for number, line in enumerate(file.read_text("utf-8-sig", errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            _, told, text = line.split("\t", 2)
            rating = float(told)
        except ValueError:
            rating = math.nan
        if not abs(rating) <= HIGHEST:
            needs = f"a number, a rating in -{HIGHEST}..{HIGHEST} and a sentence, with tabs in between"
            raise DataUnfit(f"line {number} of {FOLDER}/{file.name} needs to be {needs}; remove the folder, and {HOW}")
        yield rating, text.strip()
