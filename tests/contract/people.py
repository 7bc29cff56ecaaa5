"""Two projects with rows in every table, and the people of each."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from db.postgres_door import PostgresDoor
from db.store import Store

ADMIN, A, B, STRANGER = (f"00000000-0000-4000-8000-{number:012}" for number in (1, 2, 3, 4))
AT = "2026-11-22T08:00:00Z"


@dataclass
class World:
    """Project p has the sites a and b, project other has x; what a node printed or sent carries its name: `a patient`."""

    names: dict[str, str] = field(default_factory=dict)  # id -> name

    def named(self, text: str) -> str:
        """Put names for ids."""
        for key, name in self.names.items():
            text = text.replace(key, name)
        return text


def fill(url: str) -> World:
    """Fill every table, by the Store where it has a method for it."""
    world = World({ADMIN: "admin", A: "user-a", B: "user-b", STRANGER: "stranger"})
    asyncio.run(_fill(url, world))
    ids = {name: key for key, name in world.names.items()}
    with psycopg.connect(url) as connection:
        if connection.execute("select to_regclass('auth.users')").fetchone() != (None,):
            for user in (ADMIN, A, B, STRANGER):
                connection.execute("insert into auth.users (id) values (%s)", [user])
        member = "insert into members (user_id, project_id, role, node_id) values (%s, %s, %s, %s)"
        connection.execute(member, [ADMIN, ids["p"], "admin", None])
        for user, project, node in ((A, "p", "a"), (B, "p", "b"), (STRANGER, "other", "x")):
            connection.execute(member, [user, ids[project], "participant", ids[node]])
        has_models = connection.execute("select to_regproc('public.add_model')").fetchone() != (None,)
        promote = "select add_model(f.project_id, f.id, f.sha256, 'models/x', 'admin', p.slug)"
        by_hand = "insert into models (project_id, version, artifact_id, promoted_by, why) select p.id, 1, f.id, 'admin', p.slug"
        each_run = "from artifacts f join projects p on p.id = f.project_id"
        connection.execute(f"{promote if has_models else by_hand} {each_run}".encode())
    return world


async def _fill(url: str, world: World) -> None:
    door = PostgresDoor(url)
    store = Store(door)
    for project, sites, attempt in (("p", {"a": "5", "b": "6"}, "77"), ("other", {"x": "7"}, "88")):
        opened = await store.open_project(project, project, f"coordinator-{project}", "C")
        world.names[opened["id"]] = project
        nodes = {}
        for site, flower in sites.items():
            nodes[site] = await _enrol(store, opened["id"], site, flower)
            world.names[nodes[site]] = site
        run = await store.begin_run(opened["id"], f"app-{project}", "fab", {}, "first", "rest")
        world.names[run["id"]] = f"run-{project}"
        await store.begin_attempt(run["id"], attempt, attempt)
        if project == "other":
            await store.note_attempt(attempt, "stop asked")
        await store.apply_journal(run["id"], _journal(sites, attempt), 1)
        texts = [{"source": "clientapp", "text": f"{site} printed", "node_id": node} for site, node in nodes.items()]
        texts.append({"source": "serverapp", "text": f"server of {project}"})
        await store.append_log_lines(run["id"], "server.log", 0, 1, texts)
        await store.audit(opened["id"], "admin", f"looked at {project}", run["id"])
        await store.hold_lease(opened["id"], f"server-{project}", f"host-{project}")
    await store.append_log_lines(None, "superlink.log", 0, 1, [{"source": "superlink", "text": "of no run"}])
    await door.close()


def _journal(sites: dict[str, str], attempt: str) -> list[dict[str, Any]]:
    first, *others = sorted(sites)
    told = {site: _cause(site, flower) for site, flower in sites.items()}
    everybody = "; ".join(f"{site} patient" for site in (first, *others))
    at = {"at": AT, "attempt": attempt}
    records: list[dict[str, Any]] = [
        {"kind": "run.opened", "workload": "digits", "strategy": "fedavg", "num_rounds": 2},
        {"kind": "round.opened", "round": 1, "nodes": list(sites.values()), "needed": 1},
    ]
    for site, flower in sites.items():
        update = {
            "kind": "update",
            "round": 1,
            "node_id": flower,
            "message_id": f"m-{site}",
            "status": "failed",
            "num_examples": 10,
            "bytes_down": 40,
            "bytes_up": 40,
            "cause": told[site],
        }
        records.append(update | {"metrics": {"loss": int(attempt)}})
        records.append(update | {"num_examples": f"{site} patient"})
        records.append({"kind": f"{site} patient"})
    commit = {"file": "f", "sha256": "f" * 64, "size_bytes": 1}
    closed = {
        "kind": "round.closed",
        "round": 1,
        "counted": 0,
        "expected": 2,
        "num_examples": 20,
        "metrics": {"loss": int(attempt)},
    }
    artifact = {"kind": "artifact", "name": "m", "role": "final", "path": f"of-{attempt}", "sha256": "e" * 64, "size_bytes": 1}
    closed |= {"seconds": 2, "aggregate_s": 0.1, "bytes_down": 80, "bytes_up": 80, "commit": commit}
    records += [
        closed,
        {"kind": "round.opened", "round": 2, "nodes": list(sites.values()), "needed": 1},
        *(
            {"kind": "update", "round": 2, "node_id": flower, "status": "counted", "num_examples": 10}
            for flower in sites.values()
        ),
        closed | {"round": 2, "counted": len(sites)},
        artifact | {"format": "x", "round": 2},
        {"kind": "run.closed", "status": "failed", "cause": told[first] | {"message": everybody}},
    ]
    return [at | {"seq": seq} | record for seq, record in enumerate(records, 1)]


def _cause(site: str, flower: str) -> dict[str, Any]:
    said = f"{site} patient"
    return {"node_id": flower, "node_name": f"Hospital {site}", "type": "KeyError", "message": said, "last_lines": [said]}


async def _enrol(store: Store, project_id: str, site: str, flower_node_id: str) -> str:
    secret, token = (f"{number}{flower_node_id}" * 32 for number in (1, 2))
    await store.create_invitation(project_id, secret, f"for {site}", 60)
    node = await store.redeem_invitation(secret, site, f"Hospital {site}", "key", flower_node_id, token)
    await store.add_token(f"3{flower_node_id}" * 32, "participant", site, project_id)
    await store.revoke_tokens("participant", site)
    session = await store.open_session(node["id"], "supernode", {"of": site})
    await store.move_session(session["id"], "failed", 4711, "exit code 3", [f"{site} printed"])
    await store.open_session(node["id"], "supernode", {"of": site})
    await store.beat(node["id"], {"supernode_state": "running", "reported_at": AT})
    reports: list[tuple[str, dict[str, Any]]] = [
        ("inventory", {"hardware": {}, "datasets": [{"id": "shared"}]}),
        ("session", {"session_id": f"{site} patient", "status": "running"}),
        ("clientapp", {"event": "message.started", "flower_run_id": "9", "message_id": "m"}),
        ("log", {"source": "clientapp", "flower_run_id": "9", "message_id": "m", "lines": [f"{site} printed"]}),
    ]
    lines = [{"seq": seq, "kind": kind, "at": AT, "data": data} for seq, (kind, data) in enumerate(reports, 1)]
    await store.accept_reports(node["id"], "spool", lines)
    return str(node["id"])


Connection = psycopg.Connection[Any]


def each(connection: Connection, query: str) -> list[str]:
    """Give the first column."""
    return [row[0] for row in connection.execute(query.encode()).fetchall()]


# One round trip for a list of statements: the mutation tests ask some 300,000 times.
_ANSWERS = """
create or replace function pg_temp.answers(p_statements text[], p_role text, p_user text, p_reads boolean) returns text[]
language plpgsql as $$
declare
  v_answers text[] := '{}';
  v_answer text;
  v_statement text;
begin
  -- As PostgREST speaks for who comes.
  perform set_config('request.jwt.claims', json_build_object('sub', p_user)::text, true);
  perform set_config('role', p_role, true);
  foreach v_statement in array p_statements loop
    if p_reads then
      execute v_statement into v_answer;
      v_answers := v_answers || coalesce(v_answer, '');
    else
      begin
        execute v_statement;
        raise exception using errcode = 'ES000', message = 'done, and undone';
      exception when others then
        v_answers := v_answers || (sqlstate || ' ' || sqlerrm);
      end;
    end if;
  end loop;
  return v_answers;
end
$$
"""
DONE = "ES000 done, and undone"


def refusals(connection: Connection, statements: Sequence[str], role: str, user: str | None = None) -> list[str]:
    """Try statements as a role and give what was said to each: SQLSTATE and message, or DONE; nothing that they did stays."""
    return _answers(connection, statements, role, user, reads=False)


def read(connection: Connection, queries: Sequence[str], role: str, user: str | None = None) -> list[str]:
    """Give the one value, as text, of each query of a role."""
    return _answers(connection, queries, role, user, reads=True)


def _answers(connection: Connection, statements: Sequence[str], role: str, user: str | None, reads: bool) -> list[str]:
    with connection.transaction(force_rollback=True):
        connection.execute(_ANSWERS)
        call = "select pg_temp.answers(%s, %s, %s, %s)"
        return list((connection.execute(call, [list(statements), role, user, reads]).fetchone() or ([],))[0])
