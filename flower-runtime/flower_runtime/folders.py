"""How many folders of past messages a node keeps."""

import shutil
from collections.abc import Collection
from pathlib import Path


def remove_old_folders(clientapps_dir: Path, keep: int, in_use: Collection[Path]) -> None:
    """Remove `<flower run id>/<message id>` folders beyond the newest, and run folders that are empty then."""
    folders = sorted(clientapps_dir.glob("*/*"), key=lambda each: each.lstat().st_mtime_ns)
    for folder in folders[: max(0, len(folders) - keep)]:
        if folder in in_use:
            continue
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
        else:
            folder.unlink()
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
