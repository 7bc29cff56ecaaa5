"""Who may import whom, beyond what lint-imports can say."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"admin_server", "client_server", "control_plane", "db", "flower_runtime", "flower_app"}


def imported_by(path: Path) -> set[str]:
    """Name the top-level packages that a file imports, at its top or anywhere inside."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_the_rooms_import_only_what_they_may() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    told = subprocess.run([lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def test_run_py_needs_the_standard_library_alone() -> None:
    assert imported_by(ROOT / "run.py") <= sys.stdlib_module_names


@pytest.mark.parametrize("path", sorted(ROOT.glob("demo*.py")), ids=lambda path: path.name)
def test_the_demo_knows_no_room(path: Path) -> None:
    parts = {part.stem for part in ROOT.glob("demo_*.py")}
    assert imported_by(path) <= sys.stdlib_module_names | {"httpx", "rich"} | parts


def test_an_old_python_can_read_run_py() -> None:
    ast.parse((ROOT / "run.py").read_text("utf-8"), feature_version=(3, 7))


@pytest.mark.parametrize("room", ["flower-app", "flower-runtime"])
def test_what_flower_starts_knows_no_database_and_no_rest(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        assert not imported_by(path) & {"psycopg", "psycopg_pool", "fastapi", "admin_server", "client_server"}, path


@pytest.mark.parametrize(
    ("package", "owner"),
    [
        ("psycopg", "db"),
        ("psycopg_pool", "db"),
        ("torch", "flower-app/flower_app/workloads"),
        ("wasmtime", "flower-app/flower_app/workloads/wasm"),
    ],
)
def test_a_package_is_imported_in_one_place(package: str, owner: str) -> None:
    rooms = ("admin-server", "client-server", "control-plane", "db", "flower-app", "flower-runtime")
    users = [path for room in rooms for path in (ROOT / room).rglob("*.py") if package in imported_by(path)]
    assert [path for path in users if not path.is_relative_to(ROOT / owner)] == []


def test_flower_is_called_in_one_file_of_the_admin_server() -> None:
    users = {path.name for path in (ROOT / "admin-server").rglob("*.py") if "flwr" in imported_by(path)}
    assert users <= {"flower.py", "fab.py"}
