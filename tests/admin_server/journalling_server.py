"""A ServerApp that keeps a journal and trains nothing: one round an attempt, then it waits; at the second round it is done."""

import json
import os
import time
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()
AT = "2026-11-22T08:00:00.000Z"
OPENED = {"workload": "none", "strategy": "none", "num_rounds": 2, "seed": 1, "min_available": 0, "config": {}}
CLOSED = {"counted": 0, "expected": 0, "num_examples": 0, "metrics": {}, "server_metrics": {}, "seconds": 0.1, "aggregate_s": 0.1}
COMMIT = {"file": "commit/round-1.safetensors", "sha256": "a" * 64, "size_bytes": 0}


@app.main()
def main(grid: Grid, context: Context) -> None:
    path = Path(os.environ["ESPALIER_RUN_DIR"]) / "journal.jsonl"
    past = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = max((line["round"] for line in past if line["kind"] == "round.closed"), default=0)

    def write(kind: str, **fields: Any) -> None:
        line = {"seq": len(past) + 1, "at": AT, "attempt": os.environ["ESPALIER_ATTEMPT"], "kind": kind, **fields}
        past.append(line)
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    write("run.opened", **OPENED, resumed_after=done, model={"parameters": 1, "size_bytes": 4})
    write("round.opened", round=done + 1, nodes=[], needed=0)
    write("round.closed", round=done + 1, **CLOSED, bytes_down=0, bytes_up=0, commit=COMMIT)
    while done == 0:
        control = Path(os.environ["ESPALIER_RUN_DIR"]) / "control.json"
        if control.exists() and json.loads(control.read_text())["want"] == "stop":
            write("run.closed", status="stopped", last_round=1, cause=None)
            time.sleep(5)
            return
        time.sleep(0.1)
    write("run.closed", status="completed", last_round=2, cause=None)
