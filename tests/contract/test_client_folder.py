"""clients/<node>/ of a run is written by two rooms that import each other not: both must name it alike."""

from pathlib import Path

import pytest
from admin_server.rundir import RunDirectory as OfAdminServer
from flower_app.run_directory import RunDirectory as OfFlowerApp


@pytest.mark.parametrize("name", ["site-a", "Klinikum München", "..", "../../etc", "中心", "a" * 300, "", "."])
@pytest.mark.parametrize("node_id", ["6922184707310719011", "7", "18446744073709551615"])
def test_a_sites_log_lies_beside_its_updates(name: str, node_id: str) -> None:
    log = OfAdminServer(Path("run")).client_log(name, node_id)
    assert log.parent == OfFlowerApp(Path("run")).update(name, node_id, "1").parent
    assert log.parent.parent == Path("run/clients")
