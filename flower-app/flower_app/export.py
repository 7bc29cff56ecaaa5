"""Write a run's adapters as peft's own files, or merged into the whole model as transformers'.

`python -m flower_app.export RUN_DIR --to DIR [--model NAME] [--merged]`: RUN_DIR is a run's directory (`run_dir` of
`GET /runs/{id}`), NAME one of its models/ without its ending (default `final`). DIR is then read by
`PeftModel.from_pretrained(base, DIR)`, or with --merged by `AutoModel….from_pretrained(DIR)`.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flower_app.config import ConfigError, RunConfig
from flower_app.tensor_file import read_tensors
from flower_app.workloads import make_workload
from flower_app.workloads.base_models import HubUnreachable
from flower_app.workloads.data_dirs import DataMissing
from flower_app.workloads.memory import OutOfMemory


class NotExportable(ValueError):
    """This is no run with adapters, or the model is not there."""


def main(arguments: list[str] | None = None) -> int:
    """Export; 0 with a line that says what lies where, 1 with one that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m flower_app.export", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--model", default="final", metavar="NAME", help="one of the run's models (default: final)")
    parser.add_argument("--merged", action="store_true", help="the whole model with the adapters in it, and its tokenizer")
    options = parser.parse_args(arguments)
    try:
        export(options.run_dir, options.model, options.to, merged=options.merged)
    except (NotExportable, ConfigError, DataMissing, HubUnreachable, OutOfMemory, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    print(f"{options.to}: {', '.join(sorted(each.name for each in options.to.iterdir()))}")
    return 0


def export(run_dir: Path, model_name: str, folder: Path, *, merged: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Write one of a run's models to a new folder. Raises NotExportable, FileExistsError, and what the workload does."""
    try:
        config = RunConfig.parse(json.loads((run_dir / "config.json").read_text()))
        arrays, _ = read_tensors(run_dir / "models" / f"{model_name}.safetensors")
    except FileNotFoundError as error:
        raise NotExportable(f"{error.filename or run_dir}: there is no such run or model") from error
    workload: Any = make_workload(config)
    if not hasattr(workload, "export") or not config.lora_r:
        raise NotExportable(
            f"workload {config.workload} with lora-r {config.lora_r} has no adapters: its model is {model_name}.safetensors"
        )
    if folder.exists():
        raise FileExistsError(f"{folder} is there already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        workload.export(arrays, made, merged=merged)
        made.rename(folder)


if __name__ == "__main__":
    sys.exit(main())
