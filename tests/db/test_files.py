"""Small files of the embedded Postgres on a disk that is really full."""

from pathlib import Path

import pytest

from db.errors import DatabaseFull
from db.files import in_words, write_whole
from tests.db import small_disk

pytestmark = pytest.mark.skipif(not small_disk.is_possible(), reason="no user namespace is to be had here")


def test_what_a_full_disk_does_not_take_leaves_the_old_file_whole_and_says_so(memory_path: Path) -> None:
    with small_disk.small_disk(memory_path / "disk", megabytes=1) as disk:
        folder = disk.seen_from_here
        write_whole(folder / "port", "5432")
        disk.fill()
        with pytest.raises(DatabaseFull, match="make room"), in_words(folder):
            write_whole(folder / "port", "1" * 5000)
        assert (folder / "port").read_text() == "5432"
        assert sorted(path.name for path in folder.iterdir()) == ["ballast", "port"]
        disk.make_room()
        write_whole(folder / "port", "5433")
        assert (folder / "port").read_text() == "5433"
        assert (folder / "port").stat().st_mode & 0o777 == 0o600
