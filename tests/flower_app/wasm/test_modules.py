"""A module is found by its reference, and used only with the bytes that are pinned and where the site allows them."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import flower_app
import pytest
from flower_app.config import ConfigError
from flower_app.workloads.wasm import modules
from flower_app.workloads.wasm.faults import ModuleChanged, ModuleInvalid, ModuleMissing, ModuleNotAllowed, ModuleTooLarge
from flower_app.workloads.wasm.modules import allowed_modules, app_root, find_module
from flower_app.workloads.wasm.task import Limits

WASM = b"\0asm\1\0\0\0 of the test's own"
HEX = hashlib.sha256(WASM).hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()
NONE: frozenset[str] = frozenset()
ONLY_IT = frozenset({HEX})
INLINE = "data:application/wasm;base64," + base64.b64encode(WASM).decode()
APP = '[project]\nname = "lab"\nversion = "1.0.0"\n[tool.flwr.app]\npublisher = "lab"\n'


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    (folder / "tasks").mkdir(parents=True)
    (folder / "tasks/mlp.wasm").write_bytes(WASM)
    monkeypatch.setenv("ESPALIER_DATA_DIRS", str(folder))
    return folder


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "app"
    (root / "tasks").mkdir(parents=True)
    (root / "pyproject.toml").write_text(APP)
    pack(root / "tasks/mlp.wasm.json")
    monkeypatch.syspath_prepend(root)
    return root


def pack(path: Path, wasm: bytes = WASM, sha256: str = HEX) -> None:
    path.write_text(json.dumps({"sha256": sha256, "wasm": base64.b64encode(wasm).decode()}))


def find(reference: str, allowed: frozenset[str] = ONLY_IT, most_bytes: int = 1000) -> modules.Found:
    return find_module(reference, allowed, None, Limits(module_bytes=most_bytes))


def test_the_apps_own_guest_lies_beside_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "OWN_GUEST", tmp_path / "task.wasm.json")
    with pytest.raises(ModuleMissing, match=r"there is no file .*task\.wasm\.json; python wasm-task/build\.py makes it"):
        find("", NONE)
    pack(tmp_path / "task.wasm.json")
    assert find("", NONE) == modules.Found(WASM, HEX, "the app's own")
    assert find("", ONLY_IT).sha256 == HEX
    with pytest.raises(ModuleNotAllowed, match=f"sha256:{HEX} \\(the app's own\\).* needs sha256:{HEX} in its WASM_MODULES too"):
        find("", frozenset({OTHER}))
    pack(tmp_path / "task.wasm.json", sha256=OTHER)
    with pytest.raises(ModuleChanged, match=f"has sha256 {HEX}, and {OTHER} is pinned"):
        find("", NONE)


def test_a_module_of_the_app_that_travels_needs_no_list(app: Path) -> None:
    assert find(f"fab:tasks/mlp@sha256:{HEX}", NONE) == modules.Found(WASM, HEX, "tasks/mlp.wasm.json of the app")
    with pytest.raises(ModuleChanged, match=f"has sha256 {HEX}, and {OTHER} is pinned"):
        find(f"fab:tasks/mlp@sha256:{OTHER}", NONE)
    with pytest.raises(ModuleNotAllowed):
        find(f"fab:tasks/mlp@sha256:{HEX}", frozenset({OTHER}))
    with pytest.raises(ModuleMissing, match=r"there is no file .*tasks/cnn\.wasm\.json"):
        find(f"fab:tasks/cnn@sha256:{HEX}", NONE)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 3, "wasm": 3}', '{"sha256": "", "wasm": "a"}', "\xff"])
def test_a_packed_module_that_is_none_is_told(app: Path, text: str) -> None:
    (app / "tasks/mlp.wasm.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModuleInvalid, match=r'mlp\.wasm\.json is not \{"sha256": HEX, "wasm": BASE64\}'):
        find(f"fab:tasks/mlp@sha256:{HEX}", NONE)


def test_a_module_of_the_sites_data_is_used_where_the_site_allows_it(data: Path) -> None:
    reference = f"file:tasks/mlp.wasm@sha256:{HEX}"
    assert find(reference) == modules.Found(WASM, HEX, "tasks/mlp.wasm of the site's data folders")
    told = f"does not allow module sha256:{HEX} (tasks/mlp.wasm of the site's data folders): its client server needs "
    with pytest.raises(ModuleNotAllowed) as refused:
        find(reference, NONE)
    assert str(refused.value) == f"this site {told}WASM_MODULES=sha256:{HEX}, and its SuperNode a restart"
    (data / "tasks/mlp.wasm").write_bytes(WASM + b"!")
    with pytest.raises(ModuleChanged, match=f"and {HEX} is pinned"):
        find(reference)


def test_what_is_no_file_of_the_data_folders_is_missing(data: Path) -> None:
    with pytest.raises(ModuleMissing, match=r"there is no tasks/cnn\.wasm in .*; put the module there, as wasm-module names it"):
        find(f"file:tasks/cnn.wasm@sha256:{HEX}")
    os.mkfifo(data / "pipe")
    for name in ("tasks", "pipe"):
        with pytest.raises(ModuleMissing, match=f"there is no file .*{name}"):
            find(f"file:{name}@sha256:{HEX}")


def test_a_link_within_the_data_folders_is_the_sites_own(data: Path, tmp_path: Path) -> None:
    (data / "linked.wasm").symlink_to(data / "tasks/mlp.wasm")
    assert find(f"file:linked.wasm@sha256:{HEX}").wasm == WASM


@pytest.mark.parametrize("name", ["../data/tasks/mlp.wasm", "/etc/hostname", "tasks/../../secret"])
@pytest.mark.parametrize("kind", ["file", "fab"])
def test_no_reference_leads_out_of_its_folder(data: Path, app: Path, kind: str, name: str) -> None:
    with pytest.raises(ConfigError, match="leads out of the"):
        find(f"{kind}:{name}@sha256:{HEX}")


def test_a_module_in_the_run_config_is_pinned_by_itself_and_needs_the_sites_word() -> None:
    assert find(INLINE) == modules.Found(WASM, HEX, "the run config")
    with pytest.raises(ModuleNotAllowed, match=f"sha256:{HEX} \\(the run config\\)"):
        find(INLINE, NONE)
    with pytest.raises(ConfigError, match="what follows base64, is no base64"):
        find(INLINE[:-3])


@pytest.mark.parametrize("short_by", [1, 2, 3, 20])
def test_no_way_brings_more_than_a_site_takes(data: Path, app: Path, short_by: int) -> None:
    for reference in (f"file:tasks/mlp.wasm@sha256:{HEX}", f"fab:tasks/mlp@sha256:{HEX}", INLINE):
        assert find(reference, most_bytes=len(WASM)).wasm == WASM
        with pytest.raises(ModuleTooLarge, match=f"has more than {len(WASM) - short_by} bytes"):
            find(reference, most_bytes=len(WASM) - short_by)


def test_of_a_file_that_is_far_too_large_no_more_is_read_than_tells_it(data: Path) -> None:
    with (data / "huge.wasm").open("wb") as file:
        file.truncate(1 << 40)  # of which the disk has nothing
    with pytest.raises(ModuleTooLarge):
        find(f"file:huge.wasm@sha256:{HEX}")


@pytest.mark.parametrize(
    "reference",
    [
        "mlp.wasm",
        "file:mlp.wasm",
        f"file:mlp.wasm@sha256:{HEX[:-1]}",
        f"file:mlp.wasm@sha256:{HEX.upper()}",
        f"http://registry.example/lab/mlp@sha256:{HEX}",
        f"oci://registry.example/lab/mlp:latest@sha256:{HEX}",
        f"oci://who:secret@registry.example/lab/mlp@sha256:{HEX}",
        f"oci://registry.example/lab/../mlp@sha256:{HEX}",
        "data:application/wasm," + "00",
    ],
)
def test_a_reference_that_is_none_gets_the_forms(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"wasm-module needs to be nothing for the app's own, fab:NAME@sha256:HEX, file:"):
        find(reference)


def test_a_site_that_allows_nothing_else_asks_no_registry() -> None:
    with pytest.raises(ModuleNotAllowed, match=r"takes no module of a registry: for oci://127\.0\.0\.1:9/lab/mlp@sha256:"):
        find(f"oci://127.0.0.1:9/lab/mlp@sha256:{HEX}", NONE)


def test_the_list_of_a_site_is_digests_by_commas() -> None:
    assert allowed_modules({}) == allowed_modules({"ESPALIER_WASM_MODULES": " , "}) == NONE
    assert allowed_modules({"ESPALIER_WASM_MODULES": f"sha256:{HEX}, {OTHER},"}) == {HEX, OTHER}
    for wrong in (HEX[:-1], HEX.upper(), f"sha512:{HEX}", f"{HEX} {OTHER}"):
        with pytest.raises(ConfigError, match="ESPALIER_WASM_MODULES needs digests as sha256:HEX with 64 digits"):
            allowed_modules({"ESPALIER_WASM_MODULES": f"{OTHER},{wrong}"})


def test_the_root_of_an_app_is_that_of_the_first_flower_app(tmp_path: Path) -> None:
    texts = {"library": '[project]\nname = "x"\n', "broken": "[", "first": APP, "second": APP}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyproject.toml").write_text(text)
    assert app_root(["/nowhere", *(str(tmp_path / name) for name in texts)]) == tmp_path / "first"
    assert app_root([str(tmp_path / "library")]) == Path(flower_app.__file__).parents[1]


def own_fab(root: Path) -> None:
    """Unpack this app, as a FAB holds it, with a module at its root."""
    shutil.copytree(Path(flower_app.__file__).parent, root / "flower_app", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(flower_app.__file__).parents[1] / "pyproject.toml", root)


def other_fab(root: Path) -> None:
    """Lay down an app of somebody else's that imports ours from where it is installed."""
    (root / "pyproject.toml").write_text(APP)
    (root / "lab").mkdir()
    (root / "lab/__init__.py").touch()
    (root / "lab/client_app.py").write_text("from flower_app.client_app import app as app\n")


@pytest.mark.parametrize(("lay", "app"), [(own_fab, "flower_app"), (other_fab, "lab")], ids=["ours", "another's"])
def test_a_fab_that_flower_loads_has_its_modules_below_its_own_root(
    tmp_path: Path, lay: Callable[[Path], None], app: str
) -> None:
    lay(tmp_path)
    pack(tmp_path / "mlp.wasm.json")
    code = f"""
from pathlib import Path
from flwr.supercore.object_ref import load_app
load_app("{app}.client_app:app", RuntimeError, Path({str(tmp_path)!r}))
import flower_app.workloads.wasm.modules as modules
from flower_app.workloads.wasm.task import Limits
print(modules.find_module("fab:mlp@sha256:{HEX}", frozenset(), None, Limits()).sha256, modules.app_root())
"""
    told = subprocess.run([sys.executable, "-P", "-c", code], cwd="/", capture_output=True, text=True, check=False)
    assert told.stdout.split() == [HEX, str(tmp_path)], told.stderr
