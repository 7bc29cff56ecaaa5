"""Build or read one FAB, in a process of its own: `python -m admin_server.fab APP_DIR|FILE.fab OUT_DIR`.

The last line of stdout is one JSON object. A fresh process each time, because Flower's check imports the app's modules: in
one process the second app got the first one's modules, and an app's import would run with the server's environment.
"""

import hashlib
import json
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from control_plane.files import write_atomic
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate
from flwr.common.config import flatten_dict, get_fab_config, get_metadata_from_config


def build(source: Path, out_dir: Path) -> dict[str, Any]:
    """Write out_dir/<sha256>.fab and describe it; whatever Flower or the app's own import raises becomes {"refused": text}."""
    try:
        content = built(source) if source.is_dir() else source.read_bytes()
        config = get_fab_config(content)
        declared = flatten_dict(config["tool"]["flwr"]["app"].get("config"))
        limits = limits_of(config)
        writes_journal = config["tool"].get("espalier", {}).get("journal") is True
        fab_id, version = get_metadata_from_config(config)
    except (Exception, SystemExit) as refused:
        return {"refused": f"{type(refused).__name__}: {refused}" if str(refused) else type(refused).__name__}
    sha256 = hashlib.sha256(content).hexdigest()
    path = out_dir / f"{sha256}.fab"
    write_atomic(path, content)
    answer = {"path": str(path), "sha256": sha256, "fab_id": fab_id, "version": version}
    return {**answer, "declared": declared, "limits": limits, "writes_journal": writes_journal}


def built(app: Path) -> bytes:
    """Check the app as `flwr run` does, modules too, and pack it. Raises what Flower raises."""
    load_and_validate(app / "pyproject.toml")
    content: bytes = build_fab_from_disk(app)
    return content


def limits_of(config: dict[str, Any]) -> dict[str, Any]:
    """Read [tool.espalier.run-config], where an app may say more of a key than its default (run_config.Limits).

    `entry-points = "group"` adds the names that this environment has under that group to the choices.
    """
    limits: dict[str, dict[str, Any]] = config["tool"].get("espalier", {}).get("run-config", {})
    for told in limits.values():
        if group := told.pop("entry-points", None):
            told["choices"] = sorted({*told.get("choices", []), *(point.name for point in entry_points(group=group))})
    return limits


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(build(Path(sys.argv[1]), Path(sys.argv[2]))) + "\n")
