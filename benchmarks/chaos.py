"""Kill -9 at random moments over real runs: nothing is lost, nothing counts twice, and training is soon at work again.

python3 run.py bench chaos [--kills N] [--seed S] [--json FILE]     some 12 s a kill on two cores

Two sites train the digits, one run after the other. At random moments a process of a random kind is killed; a power cut
kills them all. The clock runs from the moment the last killed process is ready again (of a ServerApp or a ClientApp: from the
kill) to the first message of the next round. A kill before the first round after a power cut is over, in which everything
starts at once, counts as part of the power cut.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos_cases import record
from benchmarks.chaos_cases.victims import OF_NODES, POWER_CUT, Killed, Victims
from benchmarks.measure.leaving import leave_in_order
from benchmarks.measure.table import Row, machine, report
from tests.federation.stack import ROOT, Stack, wait_for

SITES, ROUNDS, KILLS = 2, 8, 50  # a site for each core: what else competes is the federation itself
LOCAL_STEPS = 5  # short rounds: the clock also runs over what is left of a round that a kill did not disturb
RESUME_S, POWER_CUT_S, SAME_MODEL = 10.0, 25.0, 1e-5
LONGEST_PEACE_S = 4.0
ENDED = float("inf")
RUN_S, NEXT_ROUND_S = 600.0, 180.0


@dataclass
class Seen:
    """What all runs together have shown.

    fewer: rounds without an update of each site, in runs in which no kill took a node. resumed_s: by kind of the process.
    """

    kills: int = 0
    lost: int = 0
    twice: int = 0
    fewer: int = 0
    failed: int = 0
    runs: int = 0
    attempts: int = 0
    apart: list[float] = field(default_factory=list)
    resumed_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 run.py bench chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=KILLS, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    arguments = parser.parse_args()
    leave_in_order()
    on = machine()
    folder = Path(tempfile.mkdtemp(prefix="espalier-chaos-"))
    folder.chmod(0o755)  # root's embedded Postgres is another user
    try:
        seen = everything(folder, arguments.kills, random.Random(arguments.seed))
    except AssertionError:
        say(f"what has happened is to be read in {folder}")
        raise
    except BaseException:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
    return report(rows(seen), "", arguments.json, on)


def everything(folder: Path, kills: int, chance: random.Random) -> Seen:
    shutil.copytree(ROOT / "flower-app", folder / "apps" / "flower-app", ignore=shutil.ignore_patterns("__pycache__"))
    home = folder / "home"
    home.mkdir()
    stack = Stack(home, folder / "apps", sites=SITES)
    stack.admin.env["MAX_ATTEMPTS"] = "1000"  # what is killed here round after round is not the run's fault
    try:
        stack.start()
        quiet = begin(stack)
        stack.wait_end(quiet, RUN_S)
        undisturbed = stack.run_folder(quiet)
        victims, seen = Victims(stack, chance), Seen()
        while seen.kills < kills:
            one_run(stack, victims, chance, undisturbed, seen, kills)
        return seen
    finally:
        stack.stop()


def begin(stack: Stack) -> str:
    return stack.start_run("flower-app", num_rounds=ROUNDS, local_steps=LOCAL_STEPS, min_available=SITES)


def one_run(stack: Stack, victims: Victims, chance: random.Random, undisturbed: Path, seen: Seen, kills: int) -> None:
    """Disturb one run until it ends, and read its record."""
    run_id, kinds, cut_at = begin(stack), set[str](), -1
    run_dir = Path(wait_for("the run's directory", lambda: stack.run(run_id)["run_dir"], 60))
    while seen.kills < kills and committed(run_dir) < ROUNDS - 2 and stack.run(run_id)["status"] != "failed":
        time.sleep(chance.uniform(0, LONGEST_PEACE_S))
        before = committed(run_dir)
        if before < ROUNDS - 2 and (killed := victims.kill(chance.choice(victims.kinds), run_dir)):
            seen.kills += 1
            kinds.add(killed.kind)
            cut_at = before if killed.kind == POWER_CUT else cut_at
            await_round(stack, run_id, run_dir, killed, seen, is_cut=before == cut_at)
    run = stack.wait_end(run_id, RUN_S)
    journal, rows = record.journal_of(run_dir), record.rows_of(stack, run_id)
    seen.runs += 1
    seen.attempts += len(run["attempts"])
    seen.failed += run["status"] != "completed"
    seen.lost += record.lost_rounds(journal, rows["rounds"], ROUNDS)
    seen.twice += record.double_counts(journal, rows)
    fewer = record.rounds_with_fewer(rows["rounds"], SITES)
    seen.fewer += 0 if kinds & OF_NODES else fewer
    if run["status"] == "completed" and not fewer:
        seen.apart.append(record.distance(run_dir, undisturbed))
    say(f"run {run['status']}, {len(run['attempts'])} attempts, {run['rounds_done']} rounds {run['cause'] or ''}")


def await_round(stack: Stack, run_id: str, run_dir: Path, killed: Killed, seen: Seen, *, is_cut: bool) -> None:
    """Wait for the first message of the next round, and take its time; is_cut: it is part of a power cut's."""
    found = wait_for(
        f"the next round after kill {seen.kills}, {killed.kind}",
        lambda: next_or_end(stack, run_id, run_dir, killed.ready_at),
        NEXT_ROUND_S,
    )
    after_s = found - killed.ready_at
    if found != ENDED:
        seen.resumed_s[POWER_CUT if is_cut else killed.kind].append(after_s)
    say(f"kill {seen.kills}, {killed.kind}: next round after {after_s:.1f} s, {committed(run_dir)} committed")


def committed(run_dir: Path) -> int:
    return sum(line["kind"] == "round.closed" for line in record.journal_of(run_dir))


def next_or_end(stack: Stack, run_id: str, run_dir: Path, after: float) -> float | None:
    """Say when the next round was opened; ENDED for a run that has ended before."""
    if (at := record.next_round_at(run_dir, after)) is not None:
        return at
    return ENDED if stack.run(run_id)["status"] in ("completed", "failed", "stopped") else None


def rows(seen: Seen) -> list[Row]:
    alone = [each for kind, times in seen.resumed_s.items() if kind != POWER_CUT for each in times]
    cuts = seen.resumed_s.get(POWER_CUT, [])
    return [
        Row("kills", "", seen.kills),
        Row("lost rounds", "", seen.lost, goal=0),
        Row("double counts", "", seen.twice, goal=0),
        Row("resume, slowest (s)", "s", max(alone, default=None), goal=RESUME_S),
        Row("power cut, slowest (s)", "s", max(cuts, default=None), goal=POWER_CUT_S),
        Row("rounds with fewer updates, though no node was killed", "", seen.fewer, goal=0),
        Row("runs that did not complete", "", seen.failed, goal=0),
        *([Row("final model, of the largest weight", "", max(seen.apart), goal=SAME_MODEL)] if seen.apart else []),
        Row("runs", "", seen.runs),
        Row("runs with every update, compared by their model", "", len(seen.apart)),
        Row("attempts", "", seen.attempts),
        *(Row(f"{kind}: slowest of {len(times)}", "s", max(times)) for kind, times in sorted(seen.resumed_s.items())),
    ]


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
