"""ClientApps of a SuperNode that was killed: their processes' remains and their records."""

from flower_runtime.activity import Activity
from flower_runtime.clientapps import NodeSettings
from flower_runtime.group import kill_group
from flower_runtime.output import last_lines
from flower_runtime.procfile import ProcessRecord, start_mark, write_exit


def end_leftovers(settings: NodeSettings) -> None:
    """Kill what an earlier SuperNode's ClientApps left running, and write the exit.json that it could not write."""
    warm_server = ProcessRecord.read(settings.state_dir / "warm" / "proc.json")
    if warm_server is not None:
        _kill(warm_server)
    activity = Activity(settings.state_dir / "activity.jsonl")
    for path in sorted(settings.clientapps_dir.glob("*/*/proc.json")):
        folder, record = path.parent, ProcessRecord.read(path)
        if record is None or (folder / "exit.json").exists():
            continue
        _kill(record)
        lines = last_lines(folder / "output.log")
        try:
            (folder / "token").unlink(missing_ok=True)
            write_exit(folder / "exit.json", None, lines)
        except OSError as error:  # the folder was its ClientApp's own to spoil
            print(f"{folder} is left as it is: {error}", flush=True)
        activity.note(
            "clientapp.died",
            flower_run_id=folder.parent.name,
            message_id=folder.name,
            pid=record.pid,
            reason="its SuperNode ended first",
            last_lines=[] if settings.forward_logs == "none" else lines,
        )


def _kill(record: ProcessRecord) -> None:
    """Kill the group that the record's process leads or led, unless the pid is another's by now."""
    if start_mark(record.pid) in (record.start_mark, None):
        kill_group(record.pid)
