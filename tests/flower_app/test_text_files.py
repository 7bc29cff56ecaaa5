"""Texts of a site's own are read as they are meant, or the file and the place in it are named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from flower_app.workloads.guards import DataUnfit
from flower_app.workloads.text_files import read_texts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"text": null}', "text is no text, but of type NoneType"),
        ('{"text": 5}', "text is no text, but of type int"),
        ('{"prompt": ["a"], "completion": "b"}', "prompt is no text, but of type list"),
        ('{"prompt": "a", "completion": 1.5}', "completion is no text, but of type float"),
        ('{"prompt": "a"}', "KeyError('completion')"),
        (r'{"text": "\ud800"}', "text holds half a character"),
    ],
)
def test_a_line_without_a_text_is_named_with_its_file_and_why(line: str, why: str, root: Path) -> None:
    (root / "ward").mkdir()
    (root / "ward" / "own.jsonl").write_text(f'{{"text": "a"}}\n\n{line}\n')
    with pytest.raises(DataUnfit) as raised:
        read_texts(root)
    assert str(raised.value).startswith("line 3 of texts/ward/own.jsonl needs to be a JSON object with")
    assert why in str(raised.value)


@pytest.mark.parametrize("name", ["own.txt", "own.jsonl"])
def test_a_file_that_is_not_utf_8_is_named_with_the_byte(name: str, root: Path) -> None:
    (root / name).write_bytes(b"\xef\xbb\xbfold \xe4")
    with pytest.raises(DataUnfit, match=rf"^texts/{name} needs to be UTF-8, and byte 7 is not: unexpected end of data$"):
        read_texts(root)


def test_a_mark_of_the_byte_order_is_no_part_of_a_text(root: Path) -> None:
    (root / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "first"}\r\n{"text": "second"}\r\n')
    (root / "b.txt").write_bytes(b"\xef\xbb\xbfthird\r\n\r\nfourth")
    assert list(read_texts(root).texts) == ["first", "second", "third", "fourth"]


def test_a_line_ends_where_json_lines_end_one(root: Path) -> None:
    text = "a\u2028b\u2029c\x85d"
    (root / "a.jsonl").write_text(json.dumps({"text": text}, ensure_ascii=False), "utf-8")
    assert list(read_texts(root).texts) == [text]


def test_a_prompt_is_what_its_line_says_and_nothing_within_a_text(root: Path) -> None:
    (root / "a.jsonl").write_text(json.dumps({"text": "a\0b"}) + "\n" + json.dumps({"prompt": "c\0d", "completion": "e\0f"}))
    (root / "b.txt").write_text("g\0h")
    read = read_texts(root)
    assert list(zip(read.prompts, read.texts, strict=True)) == [(None, "a\0b"), ("c\0d", "e\0f"), (None, "g\0h")]
    some = read.at(read.labels[:1] + 1)
    assert (list(some.prompts), list(some.texts)) == (["c\0d"], ["e\0f"])


def test_files_of_one_name_in_two_folders_are_two_groups(root: Path) -> None:
    for folder in ("bern", "chur"):
        (root / folder).mkdir()
        (root / folder / "notes.txt").write_text("one\n\ntwo")
    assert list(read_texts(root).groups) == ["bern/notes"] * 2 + ["chur/notes"] * 2
    assert list(read_texts(root / "chur" / "notes.txt").groups) == ["notes"] * 2


def test_where_there_is_no_example_it_says_where_it_looked(root: Path) -> None:
    told = re.escape(f"there is no example in {root}: ")
    with pytest.raises(DataUnfit, match=f"^{told}it has no .txt and no .jsonl$"):
        read_texts(root)
    (root / "a.txt").write_text("\n\n \n")
    (root / "b.jsonl").touch()
    (root / "c.jsonl").mkdir()
    with pytest.raises(DataUnfit, match=rf"^{told}it has 2 files of \.txt or \.jsonl, all empty$"):
        read_texts(root)
    with pytest.raises(DataUnfit, match=rf"^there is no example in {root}/b\.jsonl: it is empty$"):
        read_texts(root / "b.jsonl")


def test_a_file_of_another_kind_is_refused(root: Path) -> None:
    (root / "notes.csv").write_text("a,b\n")
    with pytest.raises(DataUnfit, match=r"^notes\.csv needs to be a file of \.txt or \.jsonl$"):
        read_texts(root / "notes.csv")
