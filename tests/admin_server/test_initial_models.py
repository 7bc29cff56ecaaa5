"""Copies of models that runs start from: named by their content, and nothing else is taken."""

import hashlib
from pathlib import Path

import pytest
from admin_server.initial_models import copied

CONTENT = b"a model"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "final.safetensors"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "initial-models" / f"{SHA256}.safetensors"


def test_a_copy_is_made_once_and_outlives_its_source(source: Path, target: Path) -> None:
    assert copied(source, target, SHA256)
    source.unlink()
    assert copied(source, target, SHA256)
    assert target.read_bytes() == CONTENT


def test_a_file_that_is_gone_is_told(source: Path, target: Path) -> None:
    source.unlink()
    assert not copied(source, target, SHA256)


def test_a_file_that_has_changed_is_not_taken(source: Path, target: Path) -> None:
    source.write_bytes(b"another model")
    assert not copied(source, target, SHA256)
    assert not target.exists()


def test_a_copy_that_a_full_disk_cut_short_is_made_anew(source: Path, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT[:3])
    assert not copied(source, target, SHA256)
    assert copied(source, target, SHA256)
