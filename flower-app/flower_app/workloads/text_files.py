"""Texts in files of a site's own: `.txt`, an example a paragraph, and `.jsonl`, `text` or `prompt` and `completion` a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flower_app.workloads.guards import DataUnfit
from flower_app.workloads.texts import Texts

SUFFIXES = (".txt", ".jsonl")
BOM = "\ufeff"

Example = tuple[str | None, str]
"""A prompt, where there is one, and the text or completion."""


def read_texts(root: Path) -> Texts:
    """Give the examples of a file, or of all files below a folder, grouped by file: its path below the folder, without suffix.

    Raises DataUnfit: no example, with where they were looked for; else naming the file, and the line or the byte.
    """
    alone = root.is_file()
    files = [root] if alone else sorted(each for each in root.rglob("*") if each.suffix in SUFFIXES and each.is_file())
    below = root.parent if alone else root
    found = [(prompt, text, _group_of(file, below)) for file in files for prompt, text in _examples(file, root.parent)]
    if not found:
        why = f"it has {len(files)} files of {' or '.join(SUFFIXES)}, all empty" if files else "it has no .txt and no .jsonl"
        raise DataUnfit(f"there is no example in {root}: {'it is empty' if alone else why}")
    prompts, texts, groups = zip(*found, strict=True)
    return Texts(texts, np.zeros(len(found), np.int64), np.array(groups), prompts)


def _group_of(file: Path, below: Path) -> str:
    return file.relative_to(below).with_suffix("").as_posix()


def _examples(file: Path, below: Path) -> Iterator[Example]:
    name = file.relative_to(below).as_posix()
    if file.suffix not in SUFFIXES:
        raise DataUnfit(f"{name} needs to be a file of {' or '.join(SUFFIXES)}")
    text = _decoded(file, name)
    if file.suffix == ".txt":
        paragraphs = map(str.strip, text.replace("\r\n", "\n").replace("\r", "\n").split("\n\n"))
        yield from ((None, paragraph) for paragraph in paragraphs if paragraph)
        return
    for number, line in enumerate(text.split("\n"), 1):  # no splitlines(): JSON may hold U+2028 and the like as they are
        if not line.strip():
            continue
        try:
            yield _example(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            needs = 'a JSON object with "text", or "prompt" and "completion"'
            raise DataUnfit(f"line {number} of {name} needs to be {needs}: {error!r}") from error


def _decoded(file: Path, name: str) -> str:
    try:
        return file.read_bytes().decode("utf-8").removeprefix(BOM)
    except UnicodeDecodeError as error:
        raise DataUnfit(f"{name} needs to be UTF-8, and byte {error.start} is not: {error.reason}") from error


def _example(told: dict[str, Any]) -> Example:
    if "text" in told:
        return None, _text(told, "text")
    return _text(told, "prompt"), _text(told, "completion")


def _text(told: dict[str, Any], key: str) -> str:
    value = told[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is no text, but of type {type(value).__name__}")
    if any("\ud800" <= letter <= "\udfff" for letter in value):  # no tokenizer takes it
        raise ValueError(f"{key} holds half a character, an escape such as \\ud800")
    return value
