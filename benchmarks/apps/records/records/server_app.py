"""Print lines and write a journal, round by round, as our own app does."""

import os
from pathlib import Path
from typing import Any

from flower_app.clock import SystemClock
from flower_app.journal import Journal
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()
METRICS = {"train_loss": 0.5, "eval_loss": 0.6, "eval_accuracy": 0.9}
BYTES = {"bytes_down": 56_000, "bytes_up": 56_200}


@app.main()
def main(grid: Grid, context: Context) -> None:
    rounds, lines = int(context.run_config["num-rounds"]), int(context.run_config["lines-per-round"])
    nodes = [str(10**18 + node) for node in range(int(context.run_config["num-nodes"]))]
    journal = Journal(Path(os.environ["ESPALIER_RUN_DIR"]) / "journal.jsonl", str(context.run_id), SystemClock())
    opened = {"workload": "none", "strategy": "fedavg", "num_rounds": rounds, "seed": 1, "min_available": 0, "resumed_after": 0}
    model = {"parameters": 13_706, "size_bytes": 54_824}
    journal.append("run.opened", {**opened, "model": model, "config": {"num-rounds": rounds}}, durable=True)
    for number in range(1, rounds + 1):
        journal.append("round.opened", {"round": number, "nodes": nodes, "needed": len(nodes)})
        for node in nodes:
            told = {"round": number, "node_id": node, "update_kind": "train", "wave": 0, "message_id": f"{number}-{node}"}
            told |= {"status": "counted", "num_examples": 480, "metrics": METRICS, "timings": {"total_s": 1.5}, "cause": None}
            journal.append("update", {**told, **BYTES, "facts": {"node_name": f"site-{node[-1]}"}})
        for line in range(lines):
            print(f"round {number}, line {line}: what a ServerApp says while it works, some eighty characters long")
        closed: dict[str, Any] = {"round": number, "counted": len(nodes), "expected": len(nodes), "num_examples": 1440}
        closed |= {"metrics": METRICS, "server_metrics": {"accuracy": 0.9}, "seconds": 0.1, "aggregate_s": 0.01, **BYTES}
        proof = {"file": f"commit/round-{number}.safetensors", "sha256": "a" * 64, "size_bytes": 54_824}
        journal.append("round.closed", {**closed, "commit": proof}, durable=True)
    journal.append("run.closed", {"status": "completed", "last_round": rounds, "cause": None}, durable=True)
    journal.close()
