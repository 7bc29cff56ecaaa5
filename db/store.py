"""The Store: every write and read that the platform makes, named after the domain.

Rows are plain dicts: uuids and Flower ids are text, columns that end in `_at` (and `at`, `lease_until`) are aware datetimes
in UTC. Every write is one SQL function in one transaction. It answers with the columns of the view with the same noun (a run
has those of run_list), and where it wrote events, with `events`: rows of event_list, to be told to whoever listens.
"""

from collections.abc import Sequence
from typing import Any

from db.door import Door, Row, Where
from db.errors import BadValue, MissingFunction, SchemaMismatch
from db.json_values import dated, storable
from db.migrate import latest_version

Record = dict[str, Any]
PRUNE_BATCH = 5000  # rows


class Store:
    """The platform's memory, behind one of the two doors."""

    def __init__(self, door: Door, *, log_lines_per_run: int = 200_000) -> None:
        self._door = door
        self._log_lines_per_run = log_lines_per_run

    async def check_schema(self) -> str:
        """Give the schema's version. Raises SchemaMismatch when it is not the one that this code was written for."""
        expected = latest_version()
        try:
            found = await self._call("schema_version")
        except MissingFunction:
            raise SchemaMismatch(None, expected) from None
        if found != expected:
            raise SchemaMismatch(found, expected)
        return str(found)

    async def rows(self, view: str, where: Where | None = None, after: int | None = None, limit: int = 100) -> list[Row]:
        """Read a page of a view by keyset: rows with `key` > after, ascending; the last row's key asks for the next page.

        where: column -> value, list of values, or None for null. limit: 1 to 1000. Raises BadValue for an unknown view or column.
        """
        if not 1 <= limit <= 1000:
            raise BadValue(f"A page has 1 to 1000 rows, not {limit}.")
        return [dated(row) for row in await self._door.rows(view, where, after, limit)]

    # projects, lease, tokens

    async def open_project(self, slug: str, name: str, coordinator_external_id: str, coordinator_name: str) -> Row:
        """Make or rename the project and its coordinator's node: {id, slug, name, coordinator_node_id}."""
        return await self._row(
            "open_project",
            slug=slug,
            name=name,
            coordinator_external_id=coordinator_external_id,
            coordinator_name=coordinator_name,
        )

    async def hold_lease(self, project_id: str, server_id: str, host: str) -> Row:
        """Take or renew the project's lease for 15 s: {held, server_id, host, lease_until} of whoever has it now."""
        return await self._row("hold_lease", project_id=project_id, server_id=server_id, host=host)

    async def release_lease(self, project_id: str, server_id: str) -> None:
        """Give the lease back at once, if it is this server's."""
        await self._call("release_lease", project_id=project_id, server_id=server_id)

    async def add_token(self, sha256: str, role: str, subject: str | None = None, project_id: str | None = None) -> None:
        """Let a token in by its hash; role is admin, node or participant. A revoked one stays revoked."""
        await self._call("add_token", sha256=sha256, role=role, subject=subject, project_id=project_id)

    async def find_token(self, sha256: str) -> Row | None:
        """Give {role, subject, project_id} of a token that is known and not revoked."""
        return await self._maybe("find_token", sha256=sha256)

    async def revoke_tokens(self, role: str, subject: str) -> int:
        """Revoke every token of a subject and give their number."""
        return int(await self._call("revoke_tokens", role=role, subject=subject))

    # nodes and their sessions

    async def create_invitation(self, project_id: str, sha256: str, label: str | None, expires_in_s: float) -> Row:
        """Make a one-time invitation, known by its secret's hash."""
        return await self._row("create_invitation", project_id=project_id, sha256=sha256, label=label, expires_in_s=expires_in_s)

    async def check_invitation(self, sha256: str, external_id: str) -> None:
        """See that an invitation would let a node of this external id in. Raises as redeem_invitation does."""
        await self._call("check_invitation", sha256=sha256, external_id=external_id)

    async def redeem_invitation(
        self,
        sha256: str,
        external_id: str,
        display_name: str,
        public_key: str,
        flower_node_id: str | None,
        token_sha256: str,
    ) -> Row:
        """Enrol a node: the invitation is used, the node made (or a removed one re-keyed) and its token stored, or nothing.

        flower_node_id: as the SuperLink registered its key; None where it asks for no keys. Raises InvitationRefused (reason
        unknown, used or expired) and NodeExists, also for a Flower node id that another node of the project has.
        """
        return await self._row(
            "redeem_invitation",
            sha256=sha256,
            external_id=external_id,
            display_name=display_name,
            public_key=public_key,
            flower_node_id=flower_node_id,
            token_sha256=token_sha256,
        )

    async def remove_node(self, node_id: str) -> Row | None:
        """Take a node out and revoke its tokens; None when it is gone already."""
        return await self._maybe("remove_node", node_id=node_id)

    async def beat(self, node_id: str, facts: Record) -> Row:
        """Record a heartbeat: the node's row, with `joined` true when it was lost or had only enrolled.

        facts: supernode_state decides online or offline; reported_at, session_id, flower_node_id and the rest are kept as said.
        """
        return await self._row("beat", node_id=node_id, facts=storable(facts))

    async def mark_lost_nodes(self, project_id: str, silent_s: float) -> list[Row]:
        """Mark nodes as lost that were silent for so long by the database's clock, and give them."""
        return await self._rows("mark_lost_nodes", project_id=project_id, silent_s=silent_s)

    async def accept_reports(self, node_id: str, spool_id: str, lines: Sequence[Any]) -> Row:
        """Apply a client server's report lines in order, each once: {applied_seq, refused, events, lines}.

        `lines` of the answer are the log lines of runs that were added, each {run_id, at, level, text}. A malformed line is
        refused, warned of, and acknowledged.
        """
        return await self._row(
            "accept_reports",
            node_id=node_id,
            spool_id=spool_id,
            lines=[storable(line) for line in lines],
            log_lines_per_run=self._log_lines_per_run,
        )

    async def open_session(self, node_id: str, kind: str, runtime_config: Record) -> Row:
        """Begin a session (kind superlink or supernode); an earlier open one of the node and kind is lost."""
        return await self._row("open_session", node_id=node_id, kind=kind, runtime_config=storable(runtime_config))

    async def move_session(
        self,
        session_id: str,
        status: str,
        pid: int | None = None,
        reason: str | None = None,
        last_lines: Sequence[str] | None = None,
    ) -> Row | None:
        """Move a session by its transition table; None when somebody else was first."""
        return await self._maybe(
            "move_session",
            session_id=session_id,
            status=status,
            pid=pid,
            reason=storable(reason),
            last_lines=None if last_lines is None else storable(list(last_lines)),
        )

    # runs

    async def begin_run(
        self, project_id: str, app: str, fab_hash: str | None, config: Record, label: str | None, origin: str
    ) -> Row:
        """Write the intent of a run (origin rest or shell). Raises ActiveRunExists for a second active one of origin rest."""
        return await self._row(
            "begin_run",
            project_id=project_id,
            app=app,
            fab_hash=fab_hash,
            config=storable(config),
            label=label,
            origin=origin,
        )

    async def begin_attempt(self, run_id: str, flower_run_id: str, series_id: str) -> Row:
        """Record that Flower runs this run under flower_run_id: the attempt's row, with run_status; idempotent.

        A pending run is starting from now on. The attempt of a run that has ended is recorded with that end: stop it.
        """
        return await self._row("begin_attempt", run_id=run_id, flower_run_id=flower_run_id, series_id=series_id)

    async def adopt_run(
        self, project_id: str, flower_run_id: str, series_id: str, app: str, fab_hash: str | None, config: Record
    ) -> Row:
        """Find the run that a Flower run belongs to: its attempt, its series, an open intent with the FAB, else a new row.

        The answer is the run's row with `adopted`: attempt, series, intent or new.
        """
        return await self._row(
            "adopt_run",
            project_id=project_id,
            flower_run_id=flower_run_id,
            series_id=series_id,
            app=app,
            fab_hash=fab_hash,
            config=storable(config),
        )

    async def move_run(
        self, run_id: str, status: str, cause: Record | None = None, expected: str | Sequence[str] | None = None
    ) -> Row | None:
        """Move a run by its transition table, from one of `expected` if given; None when somebody else was first."""
        return await self._maybe(
            "move_run",
            run_id=run_id,
            status=status,
            cause=storable(cause),
            expected=[expected] if isinstance(expected, str) else expected if expected is None else list(expected),
        )

    async def note_attempt(self, flower_run_id: str, reason: str) -> None:
        """Note why an attempt is about to end; the first note stays."""
        await self._call("note_attempt", flower_run_id=flower_run_id, reason=storable(reason))

    async def lose_attempt(self, flower_run_id: str, reason: str) -> Row:
        """Write that an attempt is over while its run is not, and give it; one that ended with its run stays as it is."""
        return await self._row("lose_attempt", flower_run_id=flower_run_id, reason=storable(reason))

    # what runs leave behind

    async def apply_journal(self, run_id: str, records: Sequence[Any], end_offset: int) -> Row:
        """Apply journal records in order, each once by seq: {journal_seq, journal_offset, refused, events, status}.

        A malformed record is refused, warned of, and skipped.
        """
        return await self._row(
            "apply_journal", run_id=run_id, records=[storable(record) for record in records], end_offset=end_offset
        )

    async def forget_projection(self, run_id: str) -> None:
        """Delete what the journal gave (rounds, updates, metrics, artifacts, its events), so that it can be applied again."""
        await self._call("forget_projection", run_id=run_id)

    async def append_log_lines(self, run_id: str | None, stream: str, start: int, end: int, lines: Sequence[Any]) -> Row:
        """Append lines read from a file between two offsets: {applied, offset}.

        Nothing happens unless `start` is the stored offset. lines: {at, level, text, source, node_id}. run_id None: of no run.
        """
        return await self._row(
            "append_log_lines",
            run_id=run_id,
            stream=stream,
            start=start,
            end=end,
            lines=[storable(line) for line in lines],
            log_lines_per_run=self._log_lines_per_run,
        )

    async def tail_offset(self, run_id: str | None, stream: str) -> int:
        """Give the offset up to which a stream's lines are stored, 0 at first."""
        return int(await self._call("tail_offset", run_id=run_id, stream=stream))

    async def prune(self, project_id: str, days: float) -> int:
        """Delete, batch by batch, what is older than so many days and not kept for ever, and give the number of rows.

        Log lines of runs that have ended and of no run, events of no run, ended sessions but the newest, spent invitations.
        """
        pruned = 0
        while True:
            gone = int(await self._call("prune", project_id=project_id, days=days, at_most=PRUNE_BATCH))
            pruned += gone
            if gone < PRUNE_BATCH:
                return pruned

    async def note_artifact(
        self, artifact_id: str, sha256: str, state: str, uri: str | None = None, error: str | None = None
    ) -> Row | None:
        """Note how an artifact's copy in a store fares: storing, stored, not stored (warned of once) or gone.

        error: a type, for all participants to read. The artifact's row with events; None when it has other bytes by now, or is
        no more.
        """
        return await self._maybe(
            "note_artifact", artifact_id=artifact_id, sha256=sha256, state=state, uri=uri, error=storable(error)
        )

    # models

    async def add_model(self, project_id: str, artifact_id: str, sha256: str, uri: str, by: str, why: str) -> Row:
        """Make the project's next version of an artifact whose bytes, with this sha256, lie at uri; it is the latest from now on.

        Its parent is the version whose bytes the artifact's run started from. Raises NoSuchRow; Stale when the artifact has other
        bytes by now.
        """
        return await self._row(
            "add_model",
            project_id=project_id,
            artifact_id=artifact_id,
            sha256=sha256,
            uri=uri,
            by=storable(by),
            why=storable(why),
        )

    async def promote_model(self, project_id: str, version: int, by: str, why: str) -> Row:
        """Make a version the latest again. Raises NoSuchRow."""
        return await self._row("promote_model", project_id=project_id, version=version, by=storable(by), why=storable(why))

    async def audit(
        self, project_id: str, actor: str, action: str, subject: str | None = None, facts: Record | None = None
    ) -> Row:
        """Write a line of the audit log: who did what to what."""
        return await self._row(
            "audit", project_id=project_id, actor=actor, action=action, subject=subject, facts=storable(facts or {})
        )

    async def _call(self, function: str, /, **args: Any) -> Any:
        """Call a function whose parameters are named p_…, so that they never clash with columns."""
        return await self._door.call(function, **{f"p_{name}": value for name, value in args.items()})

    async def _row(self, function: str, /, **args: Any) -> Row:
        return dated(await self._call(function, **args))

    async def _maybe(self, function: str, /, **args: Any) -> Row | None:
        row = await self._call(function, **args)
        return None if row is None else dated(row)

    async def _rows(self, function: str, /, **args: Any) -> list[Row]:
        return [dated(row) for row in await self._call(function, **args)]
