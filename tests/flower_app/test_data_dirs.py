"""What a run may name is what a site has put into its data folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from flower_app.config import ConfigError
from flower_app.workloads.data_dirs import DataMissing, find_data

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("of the site's")
    (tmp_path / "data" / "texts").mkdir(parents=True)
    return tmp_path / "data"


@pytest.mark.parametrize(
    "escape",
    [lambda data: str(data.parent / "secret"), lambda data: "../secret", lambda data: "texts/../../secret", lambda data: ".."],
)
def test_a_name_that_leads_out_of_the_data_folders_is_refused(escape: Callable[[Path], str], data: Path) -> None:
    name = escape(data)
    with pytest.raises(ConfigError) as raised:
        find_data(name, [data], "put it there")
    assert str(raised.value).startswith(f'"{name}" leads out of the data folders: name what lies below one of them')


def test_what_the_site_has_linked_into_its_folder_is_found(data: Path) -> None:
    (data / "linked").symlink_to(data.parent / "secret")
    assert find_data("linked", [data], "put it there").read_text() == "of the site's"
    assert find_data("texts", [data / "none", data], "put it there") == data / "texts"
    with pytest.raises(DataMissing, match=r"^there is no a\.\.b in .*; put it there$"):
        find_data("a..b", [data], "put it there")
