"""What people read: a JSON file for each update and each round, history.json and the chart."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flower_app.chart import ChartPainter
from flower_app.files import write_json
from flower_app.journal import Record
from flower_app.run_directory import RunDirectory
from flower_app.updates import TRAIN


class Reports:
    """Written after each record of the journal; the journal stays the truth, and all of this can be made from it."""

    def __init__(self, directory: RunDirectory, past: Iterable[Record]) -> None:
        """past: what earlier attempts wrote to the journal; a file that a crash kept from being written is written now."""
        self._directory = directory
        self._painter = ChartPainter(directory.chart)
        self._names: dict[str, str] = {}
        self._title = ""
        self.history: list[dict[str, Any]] = []
        for record in past:
            if record["kind"] == "update":
                path = self._path_of(record)
            elif record["kind"] == "round.closed":
                self.history.append(history_entry(record))
                path = directory.aggregate(record["round"])
            else:
                continue
            if not path.exists():
                write_json(path, record)
        if self.history:
            write_json(directory.history, self.history)

    def opened(self, record: Record) -> None:
        """Write what the run was started with."""
        self._title = f"{record['workload']} · {record['strategy']} · run {record['attempt']}"
        write_json(self._directory.config, record["config"])

    def updated(self, record: Record) -> None:
        """Write one node's part in a round."""
        write_json(self._path_of(record), record)

    def closed(self, record: Record) -> None:
        """Write a round's sum, the history and the chart."""
        write_json(self._directory.aggregate(record["round"]), record)
        self.history.append(history_entry(record))
        write_json(self._directory.history, self.history)
        self._painter.draw(self._title, self.history)

    def close(self) -> None:
        """Wait for the chart."""
        self._painter.close()

    def _path_of(self, record: Record) -> Path:
        """Choose the file of an update: by the node's name as it told it in any update of this run."""
        name = record["facts"].get("node_name") or (record["cause"] or {}).get("node_name")
        known = self._names.setdefault(record["node_id"], str(name)) if name else self._names.get(record["node_id"])
        kind = "" if record["update_kind"] == TRAIN else f"_{record['update_kind']}"
        return self._directory.update(known, record["node_id"], f"{record['round']}{kind}")


def history_entry(record: Record) -> dict[str, Any]:
    """Sum a `round.closed` record up for history.json.

    accuracy and loss are the server's where it evaluated, else the sites' on the model that the round started from;
    null where nobody measured them.
    """
    clients, server = record["metrics"], record["server_metrics"]
    return {
        "round": record["round"],
        "counted": record["counted"],
        "expected": record["expected"],
        "accuracy": server.get("accuracy", clients.get("eval_accuracy")),
        "loss": server.get("loss", clients.get("eval_loss")),
        "server_accuracy": server.get("accuracy"),
        "server_loss": server.get("loss"),
        "client_accuracy": clients.get("eval_accuracy"),
        "client_loss": clients.get("eval_loss"),
        "train_loss": clients.get("train_loss"),
        "num_examples": record["num_examples"],
        "seconds": record["seconds"],
        "aggregate_s": record["aggregate_s"],
        "bytes_down": record["bytes_down"],
        "bytes_up": record["bytes_up"],
        "attempt": record["attempt"],
        "closed_at": record["at"],
    }
