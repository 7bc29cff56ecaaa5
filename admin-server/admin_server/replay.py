"""Build the rows of a run anew from its journal, which is the truth."""

from control_plane.errors import Conflict

from admin_server.database import Database
from admin_server.errors import RunNotFound
from admin_server.feed import Feed
from admin_server.rundir import RunDirectory
from admin_server.runs import find
from admin_server.settings import Settings
from admin_server.watch.run_watch import ENDS
from admin_server.watch.tails import JournalTail
from db.store import Store


async def replay(settings: Settings, run_id: str) -> str:
    """Replay one run and say what was applied. Raises RunNotFound, and Conflict for a run that has not ended."""
    database = Database(settings, Feed())
    ours = await database.open()
    try:
        return await replayed(database.store, settings, run_id)
    finally:
        await database.close(stop=ours)


async def replayed(store: Store, settings: Settings, run_id: str) -> str:
    projects = await store.rows("project_list", {"slug": settings.project_slug}, limit=1)
    run = await find(store, projects[0]["id"], run_id) if projects else None
    if run is None:
        raise RunNotFound(f"There is no run {run_id} in project {settings.project_slug}.", run_id=run_id)
    if run["status"] not in ENDS:
        raise Conflict(f"Run {run['id']} is {run['status']}: its journal is still being written.", run_id=run["id"])
    directory = RunDirectory(settings.espalier_home / "runs" / str(run["series_id"]))
    if not directory.journal.is_file():
        raise Conflict(f"Run {run['id']} has no journal at {directory.journal}.", run_id=run["id"])
    await store.forget_projection(run["id"])
    records = await JournalTail(store, run["id"], directory).catch_up()
    return f"run {run['id']}: {len(records)} records applied anew"
