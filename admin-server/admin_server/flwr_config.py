"""The connection of Flower's own command line: `FLWR_HOME=$ESPALIER_HOME/flwr flwr run APP espalier`."""

import json
from pathlib import Path

from control_plane.files import write_atomic

CONNECTION = "espalier"


def write(home: Path, address: str, ca: Path | None) -> Path:
    """Write flwr/config.toml anew for the SuperLink that has just started."""
    trust = "insecure = true" if ca is None else f"root-certificates = {json.dumps(str(ca.absolute()))}"
    lines = ["[superlink]", f'default = "{CONNECTION}"', "", f"[superlink.{CONNECTION}]", f'address = "{address}"', trust, ""]
    path = home / "flwr" / "config.toml"
    write_atomic(path, "\n".join(lines))
    return path
