"""What a site's folder says of those beside it."""

from pathlib import Path

import pytest
from client_server.folder import SiteFolder


def test_a_lock_counts_on_its_own_device_and_while_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, elsewhere, gone = (SiteFolder(tmp_path / "sites" / name) for name in ("one", "two", "elsewhere", "gone"))
    inodes = []
    for folder in (one, two, elsewhere, gone):
        folder.prepare()
        folder.claim().close()
        inodes.append((folder.root / "lock").stat().st_ino)
    devices = ("00:2f", "00:2f", "fe:01", "00:2f")
    lines = [
        f"{number}: FLOCK  ADVISORY  WRITE 7 {device}:{inode} 0 EOF"
        for number, (device, inode) in enumerate(zip(devices, inodes, strict=True))
    ]
    (tmp_path / "locks").write_text("\n".join([*lines, f"9: -> FLOCK  ADVISORY  WRITE 8 00:2f:{inodes[0]} 0 EOF", ""]))
    found = list((tmp_path / "sites").glob("*/lock"))
    (gone.root / "lock").unlink()
    monkeypatch.setattr(Path, "glob", lambda *_: iter(found))
    assert one.count_at_work(tmp_path / "locks") == 2
    assert one.count_at_work(tmp_path / "nothing") == 1
