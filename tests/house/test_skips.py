"""Every reason for which a test of ours may be skipped stands in tests/skips.txt, and nothing else stands there."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
LISTED = [line for line in (TESTS / "skips.txt").read_text("utf-8").splitlines() if line and not line.startswith("#")]

pytest_plugins = ["pytester"]


def reasons() -> Iterator[tuple[str, str]]:
    """Yield (file, reason) of each skip in the sources; what an f-string fills in stands as * in its reason."""
    for path in sorted(TESTS.rglob("*.py")):
        for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            if name in ("pytest.skip", "pytest.mark.skip", "pytest.mark.skipif", "pytest.importorskip"):
                given = [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
                given += call.args[:1] if name == "pytest.skip" else []
                yield str(path.relative_to(TESTS)), spelled(given[0]) if given else "no reason at all"


def spelled(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else "*"


def test_every_skip_in_the_sources_has_its_line() -> None:
    unlisted = [(file, reason) for file, reason in reasons() if not any(fnmatchcase(reason, line) for line in LISTED)]
    assert unlisted == []


def test_every_line_still_has_its_skip() -> None:
    written = [reason for _, reason in reasons()]
    assert [line for line in LISTED if not any(fnmatchcase(reason, line) for reason in written)] == []


def test_a_skip_for_another_reason_fails_the_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # none is needed, and to import them takes seconds
    pytester.makeconftest((TESTS.parent / "conftest.py").read_text("utf-8"))
    pytester.mkdir("tests").joinpath("skips.txt").write_text("no accelerator: *\n", "utf-8")
    pytester.makepyfile("import pytest\ndef test_a(): pytest.skip('no accelerator: nothing found')")
    assert pytester.runpytest_subprocess("-p", "no:cacheprovider").ret == pytest.ExitCode.OK
    pytester.makepyfile("import pytest\ndef test_a(): pytest.skip('not today')")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*skipped without a line in tests/skips.txt: 'not today'*"])
