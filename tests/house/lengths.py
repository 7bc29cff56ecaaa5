"""How long our files are: `python tests/house/lengths.py` prints it, and fails over 400 lines."""

import sys
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("admin-server", "client-server", "control-plane", "db", "flower-app", "flower-runtime", "wasm-task", "benchmarks")
DOOR = ("run.py", *(path.name for path in sorted(ROOT.glob("demo*.py"))), "conftest.py")
LONGEST, P90, MEDIAN = 400, 250, 120


def lengths() -> dict[str, int]:
    """Count the lines of each Python file of the rooms and the door; tests, SQL and empty files do not count."""
    found = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")) if "__pycache__" not in path.parts]
    found += [ROOT / name for name in DOOR]
    counted = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in found}
    return {name: count for name, count in counted.items() if count}


def middle(counts: list[int]) -> float:
    return median(counts)


def p90(counts: list[int]) -> float:
    return quantiles(counts, n=10)[-1]


def complaints(counted: dict[str, int]) -> list[str]:
    """Say in a sentence each what is too long."""
    counts = list(counted.values())
    found = [f"{name} has {count} lines; over {LONGEST} fails" for name, count in counted.items() if count > LONGEST]
    if p90(counts) > P90:
        found.append(f"a tenth of the files has more than {p90(counts):.0f} lines; {P90} is the bar")
    if middle(counts) > MEDIAN:
        found.append(f"half of the files have more than {middle(counts):.0f} lines; {MEDIAN} is the bar")
    return found


def main() -> int:
    counted = lengths()
    counts = list(counted.values())
    print(f"{len(counts)} files, {sum(counts)} lines: median {middle(counts):.0f}, p90 {p90(counts):.0f}, longest {max(counts)}")
    for name, count in sorted(counted.items(), key=lambda item: -item[1]):
        if count > P90:
            print(f"  {count:4} {name}")
    for complaint in complaints(counted):
        print(complaint, file=sys.stderr)
    return 1 if complaints(counted) else 0


if __name__ == "__main__":
    sys.exit(main())
