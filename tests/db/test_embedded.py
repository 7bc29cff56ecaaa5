import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg
import pytest

from db import migrate
from db.binaries import binaries, major_version
from db.embedded import EmbeddedPostgres
from db.errors import EmbeddedPostgresFailed
from db.postgres_door import PostgresDoor
from db.postmaster import Postmaster, users_of
from db.store import Store
from db.unprivileged import RunAs, has_user_namespaces

Make = Callable[..., EmbeddedPostgres]


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Start and stop one once: a copy of its data is 0.05 s of CPU, an initdb 0.6 s."""
    home = tmp_path_factory.mktemp("initialised") / "postgres"
    server = EmbeddedPostgres(home, durable=False)

    async def start_and_stop() -> None:
        await server.start()
        await server.stop()

    asyncio.run(start_and_stop())
    return home


@pytest.fixture
async def make(memory_path: Path, initialised: Path) -> AsyncIterator[Make]:
    """Make embedded Postgreses, with data unless they are to be new, which are stopped when the test is over."""
    made: list[EmbeddedPostgres] = []

    def make(folder: str = "postgres", bin_folder: Path | None = None, new: bool = False) -> EmbeddedPostgres:
        home = memory_path / folder
        if not new and not home.exists():
            home.mkdir(mode=0o700)
            shutil.copytree(initialised / "data", home / "data")
            shutil.copy(initialised / "password", home / "password")
        made.append(EmbeddedPostgres(home, bin_folder=bin_folder, durable=False))
        return made[-1]

    yield make
    for one in made:
        await one.stop()


def postmaster_of(state_dir: Path) -> Postmaster:
    found = Postmaster.read(state_dir / "proc.json")
    assert found is not None
    return found


async def kill(state_dir: Path) -> int:
    """KILL the postmaster and wait until it is dead, if only as a zombie."""
    postmaster = postmaster_of(state_dir)
    os.kill(postmaster.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while postmaster.is_alive():  # noqa: ASYNC110 - nothing tells us of another's child
            await asyncio.sleep(0.01)
    return postmaster.pid


def ask(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


async def test_it_starts_with_nothing_set_and_is_its_own(make: Make, memory_path: Path) -> None:
    server = make(new=True)
    dsn = await server.start()
    home = memory_path / "postgres"
    assert ask(dsn, "select current_database()") == [("espalier",)]
    assert stat.S_IMODE((home / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert server.is_running()
    record = json.loads((home / "proc.json").read_text())
    assert set(record) == {"pid", "start_mark", "name", "started_at"}
    process = psutil.Process(record["pid"])
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    assert {connection.laddr.ip for connection in process.net_connections("inet")} == {"127.0.0.1"}
    assert (home / "password").read_text() not in " ".join(process.cmdline()) + " ".join(process.environ())
    await server.stop()
    assert not server.is_running()
    assert users_of(home / "data") == []


async def test_nobody_comes_in_without_the_password(make: Make) -> None:
    dsn = await make().start()
    password = dsn.split(":")[2].split("@")[0]
    for wrong in (dsn.replace(password, "wrong"), dsn.replace(f":{password}", "")):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(wrong)


async def test_its_settings_are_modest(make: Make) -> None:
    dsn = await make().start()
    names = ("shared_buffers", "max_connections", "TimeZone")
    assert [ask(dsn, f"show {name}")[0][0] for name in names] == ["32MB", "40", "UTC"]


async def test_a_running_one_is_adopted_with_its_port_and_pid(make: Make, memory_path: Path) -> None:
    dsn = await make().start()
    pid = postmaster_of(memory_path / "postgres").pid
    assert await make().start() == dsn
    assert postmaster_of(memory_path / "postgres").pid == pid
    (memory_path / "postgres" / "proc.json").unlink()
    assert await make().start() == dsn
    assert postmaster_of(memory_path / "postgres").pid == pid


async def test_one_whose_record_was_never_written_is_stopped_all_the_same(make: Make, memory_path: Path) -> None:
    server = make()
    await server.start()
    (memory_path / "postgres" / "proc.json").unlink()
    await server.stop()
    assert users_of(memory_path / "postgres" / "data") == []


async def test_four_that_start_it_at_once_share_one(make: Make, memory_path: Path) -> None:
    dsns = await asyncio.gather(*(make(new=True).start() for _ in range(4)))
    assert len(set(dsns)) == 1
    assert (memory_path / "postgres" / "postgres.log").read_text().count("ready to accept connections") == 1


async def test_after_kill_9_it_starts_again_with_its_rows_and_its_port(make: Make, memory_path: Path) -> None:
    server = make()
    dsn = await server.start()
    ask(dsn, "create table kept (n int)")
    for number in range(3):
        ask(dsn, f"insert into kept values ({number})")
        dead = await kill(memory_path / "postgres")
        assert not server.is_running()
        assert await server.start() == dsn
        assert postmaster_of(memory_path / "postgres").pid != dead
        assert ask(dsn, "select count(*) from kept") == [(number + 1,)]


async def test_a_killed_one_that_nobody_reaps_is_dead_and_starts_again(make: Make, memory_path: Path) -> None:
    """Its parent lives on and never waits: the postmaster stays a zombie, which Postgres' own lock takes for alive."""
    code = (
        "import asyncio, sys, pathlib, time; from db.embedded import EmbeddedPostgres;"
        "asyncio.run(EmbeddedPostgres(pathlib.Path(sys.argv[1]), durable=False).start());"
        "print('up', flush=True); time.sleep(600)"
    )
    home = memory_path / "postgres"
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, home, stdout=asyncio.subprocess.PIPE)
    try:
        assert parent.stdout is not None
        assert await parent.stdout.readline() == b"up\n"
        pid = await kill(home)
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        server = make()
        assert not server.is_running()
        assert ask(await server.start(), "select 1") == [(1,)]
    finally:
        parent.kill()
        await parent.wait()


async def test_kill_9_of_its_parent_leaves_it_running_to_be_adopted(make: Make, memory_path: Path) -> None:
    code = (
        "import asyncio, os, sys, pathlib; from db.embedded import EmbeddedPostgres;"
        "asyncio.run(EmbeddedPostgres(pathlib.Path(sys.argv[1]), durable=False).start()); os.kill(os.getpid(), 9)"
    )
    home = memory_path / "postgres"
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, home)
    assert await parent.wait() == -signal.SIGKILL
    left = postmaster_of(home)
    server = make()
    assert server.is_running()
    await server.start()
    assert postmaster_of(home).pid == left.pid
    await server.stop()
    assert not left.is_alive()


async def test_a_pid_that_another_process_has_now_is_not_taken_for_it(make: Make, memory_path: Path) -> None:
    server = make()
    await server.start()
    await server.stop()
    me = Postmaster.of(os.getpid())
    assert me is not None
    stale = json.dumps({"pid": me.pid, "start_mark": "1", "name": "postgres", "started_at": me.started_at})
    (memory_path / "postgres" / "proc.json").write_text(stale)
    (memory_path / "postgres" / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    assert not server.is_running()
    await server.stop()
    assert ask(await server.start(), "select 1") == [(1,)]
    assert postmaster_of(memory_path / "postgres").pid != os.getpid()


async def test_a_port_that_somebody_took_meanwhile_is_left_to_them(make: Make, memory_path: Path) -> None:
    server = make()
    await server.start()
    await server.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int((memory_path / "postgres" / "port").read_text())))
        other.listen()
        assert f":{other.getsockname()[1]}/" not in (dsn := await server.start())
        assert ask(dsn, "select 1") == [(1,)]


async def test_initdb_that_was_killed_leaves_nothing_in_the_way(make: Make, memory_path: Path) -> None:
    half = memory_path / "postgres" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    assert ask(await make(new=True).start(), "select 1") == [(1,)]


async def test_data_of_another_major_version_is_refused_in_one_sentence(make: Make, memory_path: Path) -> None:
    server = make()
    await server.start()
    await server.stop()
    (memory_path / "postgres" / "data" / "PG_VERSION").write_text("14\n")
    with pytest.raises(
        EmbeddedPostgresFailed, match=f"data of Postgres 14, the embedded programs are {major_version(binaries())}"
    ):
        await server.start()
    (memory_path / "postgres" / "data" / "PG_VERSION").write_text(f"{major_version(binaries())}\n")


async def test_a_lost_or_wrong_password_file_is_said_and_nothing_is_changed(make: Make, memory_path: Path) -> None:
    server = make()
    await server.start()
    await server.stop()
    password = memory_path / "postgres" / "password"
    right = password.read_text()
    password.unlink()
    with pytest.raises(EmbeddedPostgresFailed, match="password is gone"):
        await server.start()
    assert not password.exists()
    password.write_text("wrong")
    with pytest.raises(EmbeddedPostgresFailed, match="not this data's password"):
        await server.start()
    password.write_text(right)
    assert ask(await server.start(), "select 1") == [(1,)]


async def test_one_that_cannot_start_says_why_with_its_last_lines(make: Make, memory_path: Path) -> None:
    server = make()
    await server.start()
    await server.stop()
    with (memory_path / "postgres" / "data" / "postgresql.conf").open("a") as conf:
        conf.write("no_such_setting = 1\n")
    with pytest.raises(EmbeddedPostgresFailed, match="no_such_setting"):
        await server.start()
    assert not server.is_running()


async def test_stopping_what_does_not_run_does_nothing(make: Make) -> None:
    await make().stop()


async def test_an_open_connection_does_not_keep_it_from_stopping(make: Make) -> None:
    server = make()
    dsn = await server.start()
    with psycopg.connect(dsn) as connection:
        connection.execute("select 1")
        await server.stop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    assert not server.is_running()


POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")


@pytest.mark.skipif(not (POSTGRES_15 / "postgres").exists(), reason="there is no Postgres 15, the oldest version, to try it with")
async def test_the_schema_works_on_the_oldest_postgres_that_it_is_written_for(make: Make, journal: Any) -> None:
    old = make("postgres15", POSTGRES_15, new=True)
    dsn = await old.start()
    assert int(ask(dsn, "show server_version")[0][0].split(".")[0]) == 15
    await migrate.apply(dsn)
    door = PostgresDoor(dsn)
    store = Store(door)
    project = await store.open_project("p", "P", "c", "C")
    await store.create_invitation(project["id"], "1" * 64, None, 60)
    node = await store.redeem_invitation("1" * 64, "site-a", "Site A", "key", None, "2" * 64)
    session = {"session_id": str(uuid4()), "status": "running"}
    await store.accept_reports(
        node["id"], "spool", [{"seq": 1, "kind": "session", "data": session}, {"seq": 2, "kind": "gossip"}]
    )
    run = await store.begin_run(project["id"], "app", None, {}, None, "rest")
    await store.begin_attempt(run["id"], "77", "9")
    journal.opened().whole_round(1, "5").add("nonsense").artifact().closed()
    assert (await store.apply_journal(run["id"], journal.records, 1))["refused"] == 1
    await store.append_log_lines(run["id"], "server.log", 0, 1, [{"text": "a", "source": "serverapp"}])
    (artifact,) = await store.rows("artifact_list")
    await store.note_artifact(artifact["id"], artifact["sha256"], "stored", "s3://models/x")
    await store.add_model(project["id"], artifact["id"], artifact["sha256"], "models/x", "admin", "it is good")
    for view in ask(dsn, "select relname from pg_class where relkind = 'v' and relname like '%_list' order by 1"):
        assert len(await store.rows(view[0])) > (-1 if view[0] == "audit_list" else 0), view
    await door.close()
    await old.stop()
    with pytest.raises(EmbeddedPostgresFailed, match="data of Postgres 15"):
        await make("postgres15").start()


AS_A_USER = """
import asyncio, os, pathlib, sys
from db.embedded import EmbeddedPostgres
import psycopg
async def main():
    server = EmbeddedPostgres(pathlib.Path(sys.argv[1]), durable=False)
    dsn = await server.start()
    with psycopg.connect(dsn) as connection:
        print(os.geteuid(), connection.execute("select current_database()").fetchone()[0])
    await server.stop()
    print(server.is_running())
asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests here are the proof for an ordinary user")
@pytest.mark.skipif(not has_user_namespaces(), reason="no user namespace is to be had here")
def test_it_works_as_an_ordinary_user(memory_path: Path) -> None:
    """In a namespace root becomes the user 1000, without root's rights but with an interpreter that it can reach."""
    done = subprocess.run(
        ["unshare", "--user", "--map-user=1000", "--map-group=1000", sys.executable, "-c", AS_A_USER, memory_path / "postgres"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert (done.stdout.split(), done.stderr) == (["1000", "espalier", "False"], "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
async def test_where_namespaces_are_refused_root_runs_it_as_nobody_in_a_place_of_its_own(memory_path: Path) -> None:
    """Neither the programs nor the state directory can be reached by nobody, and no mode or owner of theirs is changed."""
    place = Path(tempfile.mkdtemp(dir=memory_path.parent, prefix="espalier-test-"))
    os.chmod(place, 0o755)
    package = binaries().parents[1]
    hidden = memory_path / package.name
    shutil.copytree(package, hidden)
    if package.with_name(f"{package.name}.libs").exists():
        shutil.copytree(package.with_name(f"{package.name}.libs"), hidden.with_name(f"{package.name}.libs"))
    run_as = RunAs(place=place, namespace=False)
    server = EmbeddedPostgres(memory_path / "postgres", bin_folder=hidden / "pginstall" / "bin", durable=False, run_as=run_as)
    before = {path: (os.stat(path).st_mode, os.stat(path).st_uid) for path in (memory_path, hidden)}
    try:
        dsn = await server.start()
        assert ask(dsn, "select current_database()") == [("espalier",)]
        process = psutil.Process(postmaster_of(memory_path / "postgres").pid)
        assert process.uids().real == process.gids().real == 65534
        assert Path(process.exe()).is_relative_to(place)
        assert not (memory_path / "postgres" / "data").exists()
        assert {path: (os.stat(path).st_mode, os.stat(path).st_uid) for path in before} == before
        assert await server.start() == dsn
        await kill(memory_path / "postgres")
        assert await server.start() == dsn
    finally:
        await server.stop()
        shutil.rmtree(place)
