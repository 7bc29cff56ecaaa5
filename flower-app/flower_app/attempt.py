"""One attempt of a run, from opening its record to its end line, however it ends."""

from collections.abc import Mapping
from logging import INFO
from pathlib import Path

from flwr.common.logger import log
from flwr.serverapp import Grid

from flower_app.causes import cause_of
from flower_app.clock import Clock
from flower_app.config import ConfigValue, RunConfig
from flower_app.control import ControlFile
from flower_app.engine import RoundEngine, RoundFailed
from flower_app.last_lines import LastLines, kept_last_lines
from flower_app.link import is_of_the_way
from flower_app.record import FAILED, STOPPED, RecordedRun, RunRecord, Unrecorded
from flower_app.round import POLL_S
from flower_app.run_directory import ATTEMPT, RUN_DIR, RunDirectory
from flower_app.strategies import StrategyDriver
from flower_app.workloads import make_workload, settled

STOP_LINGER_S = 5.0


def conduct(
    grid: Grid, run_config: Mapping[str, ConfigValue], flower_run_id: int, environment: Mapping[str, str], clock: Clock
) -> None:
    """Run to the end and write down how it came.

    An error is in the journal before it is raised again for Flower to say `failed`. Where Flower itself ends the
    process (StopRun, TERM) and no stop is wanted, or its client raised the error, nothing is written: a later attempt goes on.
    Raises JournalBusy, JournalDamaged, and what the engine raises.
    """
    with kept_last_lines() as last_lines:
        record, control = _opened(environment, flower_run_id, clock)
        try:
            status = _run(grid, run_config, record, control, clock, last_lines)
        finally:
            record.release()
        if status == STOPPED:
            log(INFO, "stopped as asked")
            _linger(grid, clock)


def _opened(environment: Mapping[str, str], flower_run_id: int, clock: Clock) -> tuple[RunRecord, ControlFile]:
    root = environment.get(RUN_DIR)
    if not root:
        log(INFO, "%s is not set: this run trains and writes nothing", RUN_DIR)
        return Unrecorded(), ControlFile(None)
    attempt = environment.get(ATTEMPT) or str(flower_run_id)
    return RecordedRun(Path(root), attempt, clock), ControlFile(RunDirectory(Path(root)).control)


def _run(
    grid: Grid,
    run_config: Mapping[str, ConfigValue],
    record: RunRecord,
    control: ControlFile,
    clock: Clock,
    last_lines: LastLines,
) -> str:
    """Run, write the end line, and give the status; a failed run raises."""
    try:
        config = settled(RunConfig.parse(run_config))
        engine = RoundEngine(grid, config, make_workload(config), StrategyDriver(config), record, control, clock)
        status = engine.run()
    except Exception as error:
        if is_of_the_way(error):
            raise
        cause = error.cause if isinstance(error, RoundFailed) else None
        record.closed(FAILED, cause or cause_of(error, last_lines.lines()))
        raise
    except BaseException:
        if control.read().want == "stop":
            record.closed(STOPPED)
        raise
    record.closed(status, ended_early=engine.ended_early)
    return status


def _linger(grid: Grid, clock: Clock) -> None:
    """Give the admin server's StopRun time to end this process, so that Flower says `stopped` and not `completed`."""
    until = clock.monotonic() + STOP_LINGER_S
    while clock.monotonic() < until:
        grid.get_node_ids()
        clock.sleep(POLL_S)
