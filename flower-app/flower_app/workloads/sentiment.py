"""Sentences of four domains that people have rated: film reviews, newspaper, tweets, product reviews.

Source: Hutto and Gilbert 2014 (VADER), in the source distribution of the package vaderSentiment. Fetched, never vendored.
"""

from functools import cache
from pathlib import Path

import numpy as np

from flower_app.workloads.data_dirs import find_data
from flower_app.workloads.texts import Texts

FOLDER = "vader-sentiment"
DOMAINS = {"movie": "movieReviewSnippets", "nyt": "nytEditorialSnippets", "tweets": "tweets", "amazon": "amazonReviewSnippets"}
CLEAR = 0.5
"""Ratings lie in -4..4; nearer to 0 than this a sentence is neither."""


@cache
def load_sentiment(folders: tuple[Path, ...]) -> Texts:
    """Give the sentences with a clear rating, their labels (1 positive, 0 negative) and their domains. Raises DataMissing."""
    folder = find_data(FOLDER, folders, "fetch it with `python -m flower_app.fetch lora-text`")
    texts: list[str] = []
    labels: list[int] = []
    domains: list[str] = []
    for domain, file in DOMAINS.items():
        for line in (folder / f"{file}_GroundTruth.txt").read_text("utf-8-sig", errors="replace").splitlines():
            _, rating, text = line.split("\t", 2)
            if abs(float(rating)) >= CLEAR:
                texts.append(text.strip())
                labels.append(int(float(rating) > 0))
                domains.append(domain)
    return Texts(texts, np.array(labels), np.array(domains))
