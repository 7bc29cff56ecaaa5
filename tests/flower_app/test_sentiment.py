"""The rated sentences are read whole, or the file and the line that are wrong are named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flower_app.workloads.data_dirs import DataMissing
from flower_app.workloads.guards import DataUnfit
from flower_app.workloads.sentiment import FOLDER, load_sentiment

from tests.flower_app.tiny_models import rated_sentences


@pytest.fixture
def tweets(tmp_path: Path) -> Path:
    return rated_sentences(tmp_path / FOLDER, of_each=2) / "tweets_GroundTruth.txt"


@pytest.mark.parametrize("line", ["1\t2.0", "no tab", "1\tgood\ta film", "1\tnan\ta film", "1\t7\ta film"])
def test_a_line_that_is_no_rated_sentence_is_named(line: str, tweets: Path, tmp_path: Path) -> None:
    tweets.write_text(f"1\t2.0\ta kind film\n\n{line}\n")
    told = f"line 3 of {FOLDER}/tweets_GroundTruth.txt needs to be a number, a rating in -4..4 and a sentence"
    with pytest.raises(DataUnfit, match=f"^{re.escape(told)}"):
        load_sentiment((tmp_path,))


def test_a_file_that_is_not_there_is_named(tweets: Path, tmp_path: Path) -> None:
    tweets.unlink()
    told = f"there is no tweets_GroundTruth.txt in {tmp_path / FOLDER}; fetch it with"
    with pytest.raises(DataMissing, match=f"^{re.escape(told)}"):
        load_sentiment((tmp_path,))


def test_a_sentence_ends_with_its_line_whatever_it_holds(tweets: Path, tmp_path: Path) -> None:
    tweets.write_bytes("1\t2.0\ta\u2028kind\x85film\r\n2\t-2.0\ta cold\tphone\r\n".encode())
    texts = load_sentiment((tmp_path,))
    assert [text for text, group in zip(texts.texts, texts.groups, strict=True) if group == "tweets"] == [
        "a\u2028kind\x85film",
        "a cold\tphone",
    ]
