"""The docs say what is true: every setting, error and route has its line, and every link leads somewhere."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from admin_server.settings import Settings as AdminSettings
from client_server.settings import Settings as ClientSettings
from control_plane.errors import family
from control_plane.settings import ServerSettings
from pydantic import AliasChoices

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "wasm-task" / "ABI.md"])


def names_of(settings: type[ServerSettings]) -> Iterator[str]:
    """Yield the environment variables that a server reads."""
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        first = alias.choices[0] if isinstance(alias, AliasChoices) else alias
        yield first.upper() if isinstance(first, str) else name.upper()


def table_rows(page: Path) -> set[str]:
    """Give the names in backquotes that begin a table row of a page."""
    return set(re.findall(r"^\| `([^`]+)`", page.read_text("utf-8"), re.MULTILINE))


def anchors(page: Path) -> set[str]:
    """Give the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def slugs() -> set[str]:
    for package in ("admin_server", "client_server", "control_plane"):
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    return {error.slug for error in family()}


@pytest.mark.parametrize("settings", [AdminSettings, ClientSettings])
def test_every_setting_has_its_line_in_operations(settings: type[ServerSettings]) -> None:
    assert set(names_of(settings)) - table_rows(DOCS / "operations.md") == set()


def test_operations_names_no_setting_that_is_gone() -> None:
    upper = {name for name in table_rows(DOCS / "operations.md") if re.fullmatch(r"[A-Z][A-Z_]+", name)}
    assert upper - {*names_of(AdminSettings), *names_of(ClientSettings)} == set()


def test_every_error_has_its_anchor_in_troubleshooting() -> None:
    assert slugs() - anchors(DOCS / "troubleshooting.md") == set()


def test_every_link_leads_somewhere() -> None:
    broken = []
    for page in PAGES:
        shown = re.sub(r"<!--.*?-->", "", page.read_text("utf-8"), flags=re.DOTALL)
        for path, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", shown):
            if path.startswith(("http://", "https://", "mailto:")):
                continue
            there = (page.parent / path).resolve() if path else page
            if not there.exists():
                broken.append(f"{page.relative_to(ROOT)}: {path}")
            elif anchor and anchor.removeprefix("#") not in anchors(there):
                broken.append(f"{page.relative_to(ROOT)}: {path}{anchor}")
    assert broken == []


def test_the_decisions_are_all_listed() -> None:
    listed = re.findall(r"\((\d{4}-[\w-]+\.md)\)", (DOCS / "decisions" / "README.md").read_text("utf-8"))
    assert sorted(listed) == sorted(path.name for path in (DOCS / "decisions").glob("0*.md"))


@pytest.mark.parametrize("page", sorted((DOCS / "decisions").glob("0*.md")), ids=lambda page: page.stem)
def test_a_decision_has_its_four_parts_and_a_line_to_quote(page: Path) -> None:
    text = page.read_text("utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences", "Alternatives"]
    assert re.search(r"^## Decision\n\*\*[^*]+\*\*", text, re.MULTILINE)
    assert len(text.splitlines()) <= 40
