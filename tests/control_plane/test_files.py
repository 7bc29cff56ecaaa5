import os
import stat
from pathlib import Path

import pytest
from control_plane.files import create_once, read_json, write_atomic, write_json


def test_a_file_is_replaced_whole_with_its_mode_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_atomic(path, "one")
    write_atomic(path, b"two", 0o644)
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["a.json"]


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_atomic(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_target_that_cannot_be_replaced_leaves_no_litter(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(OSError):  # noqa: PT011 - its number differs between systems
        write_atomic(tmp_path / "a", "x")
    assert os.listdir(tmp_path) == ["a"]


def test_only_the_first_creates(tmp_path: Path) -> None:
    assert create_once(tmp_path / "a", "first")
    assert not create_once(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first"


def test_json_comes_back_absent_is_none_and_damaged_raises(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"n\u00e9": [1, None]})
    assert read_json(tmp_path / "a") == {"n\u00e9": [1, None]}
    assert read_json(tmp_path / "b") is None
    (tmp_path / "a").write_text("{")
    with pytest.raises(ValueError, match="Expecting"):
        read_json(tmp_path / "a")
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a", float("nan"))


def test_what_is_no_plain_file_is_no_json(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    assert [read_json(tmp_path / name) for name in ("fifo", "folder", "missing")] == [None] * 3
