"""LoRA: what travels, what a step costs and how well a few rounds learn, beside fine-tuning the whole model.

python3 run.py bench lora [--json FILE]     some ten minutes on two cores; fetches the data of lora-text, 86 MB, once

MiniLM on sentences of four domains, one at each of four sites, 15 steps of 16 sentences a round; the sites take turns in this
process. docs/lora.md says how each row is measured.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from flower_app.fetch import main as fetch

from benchmarks.lora_cases import costs, rounds
from benchmarks.measure.table import Row, machine, report

BYTES_RATIO, STEP_RATIO, SHARE_PERCENT = 70.0, 1.4, 1.4
ACCURACY = {2: 0.70, 4: 0.77}
MB = 1e6
Config = Mapping[str, str | int | float]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 run.py bench lora", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    arguments = parser.parse_args()
    data = Path(os.environ.get("ESPALIER_HOME") or "~/.local/state/espalier").expanduser() / "data"
    if code := fetch(["lora-text", "--to", str(data)]):
        return code
    os.environ["ESPALIER_DATA_DIRS"] = str(data)
    on = machine()
    learned, further = learning(rounds.SITES, {})
    rows = [*sizes(rounds.SITES, {}), steps(costs.STEPS, {}), *learned[:2], share({}), memory({}), *learned[2:], *further]
    return report(rows, "full", arguments.json, on)


def sizes(sites: int, run_config: Config) -> list[Row]:
    """run_config, here and below: keys of the run, where they are not the workload's own."""
    say("bytes of a message")
    part, whole = (2 * sites * costs.message_bytes(rank, run_config) / MB for rank in (None, 0))
    return [Row("bytes per round (MB)", "MB", part, whole, goal=BYTES_RATIO, bars_ratio=True)]


def steps(count: int, run_config: Config) -> Row:
    say(f"{count} steps of each kind")
    part, whole = costs.step_ms(count, run_config)
    return Row("step (ms, one thread)", "ms", part, whole, goal=STEP_RATIO, bars_ratio=True)


def share(run_config: Config) -> Row:
    return Row("trainable share (%)", "%", 100 * costs.trainable_share(run_config), goal=SHARE_PERCENT)


def memory(run_config: Config) -> Row:
    say("memory of each kind")
    part, whole = (costs.memory_bytes(rank, run_config) / MB for rank in (None, 0))
    return Row("memory (MB)", "MB", part, whole)


def learning(sites: int, run_config: Config) -> tuple[list[Row], list[Row]]:
    """Give the rows that the issue names, and the others."""
    say(f"{max(ACCURACY)} rounds of {sites} sites")
    told = rounds.learn(sites, max(ACCURACY), run_config, scored=ACCURACY)
    say("one round under ffa")
    ffa = rounds.learn(sites, 1, {**run_config, "lora-aggregation": "ffa"}, scored=())
    return [
        *(
            Row(f"accuracy, {number} rounds", "", told.accuracy[number], goal=bar, higher_is_better=True)
            for number, bar in ACCURACY.items()
        ),
        Row("error of avg, round 1", "", told.errors["avg"][0]),
        Row("error of ffa, round 1", "", ffa.errors["avg"][0]),
        Row("error of svd, round 1", "", told.errors["svd"][0]),
    ], [
        *(Row(f"error of {how}, round {max(ACCURACY)}", "", told.errors[how][-1]) for how in ("avg", "svd")),
        Row("aggregation, avg (ms)", "ms", 1000 * ffa.aggregate_s),
        Row("aggregation, svd (ms)", "ms", 1000 * told.aggregate_s),
    ]


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
