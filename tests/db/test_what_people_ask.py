"""The views that are named after questions answer them."""

from db.door import Row
from db.store import Store
from tests.db.conftest import BIG, Journal


async def test_how_the_runs_stand(store: Store, run: Row, node: Row) -> None:
    (fresh,) = await store.rows("run_overview")
    assert (fresh["status"], fresh["progress"], fresh["loss"], fresh["seconds_left"]) == ("starting", None, None, None)
    journal = Journal().opened(num_rounds=4).whole_round(1, BIG)
    journal.round_opened(2, BIG, "7")
    await store.apply_journal(run["id"], journal.records, 1)
    (going,) = await store.rows("run_overview", {"status": "running"})
    assert (going["workload"], going["strategy"], going["project"]) == ("digits", "fedavg", "fed-project")
    assert (going["rounds_done"], going["num_rounds"], going["progress"]) == (1, 4, 0.25)
    assert (going["newest_round"], going["asked"], going["seconds_left"]) == (2, 2, 7.5)
    assert (going["loss"], going["accuracy"]) == (1.5, 0.9)
    cause = {"node_id": BIG, "node_name": "a", "type": "KeyError", "message": "secret", "last_lines": []}
    await store.apply_journal(run["id"], journal.add("run.closed", status="failed", cause=cause).records, 2)
    (failed,) = await store.rows("run_overview")
    assert (failed["status"], failed["reason"], failed["seconds_left"]) == ("failed", "KeyError", None)


async def test_how_the_rounds_of_a_run_went(store: Store, run: Row, node: Row) -> None:
    journal = Journal().opened().whole_round(1, BIG)
    journal.round_opened(2, BIG, "7").update(2, BIG).round_closed(2, 1, expected=2, metrics={"loss": 1.0})
    journal.round_opened(3, BIG)
    await store.apply_journal(run["id"], journal.records, 1)
    first, second, third = await store.rows("round_table", {"run_id": run["id"]})
    assert (first["asked"], first["missing"], first["loss"], first["loss_change"]) == (1, 0, 1.5, None)
    assert (second["asked"], second["missing"], second["loss"], second["loss_change"]) == (2, 1, 1.0, -0.5)
    assert (third["status"], third["missing"], third["loss_change"]) == ("open", None, None)
    assert await store.rows("round_table", {"run_id": run["id"]}, after=first["key"], limit=1) == [second]


async def test_updates_of_earlier_rounds_hide_none_that_is_missing(store: Store, run: Row, node: Row) -> None:
    journal = Journal().opened().round_opened(1, BIG, "7").update(1, BIG).round_closed(1, 1, expected=2, carried=0)
    journal.round_opened(2, BIG, "8").update(2, BIG).round_closed(2, 2, expected=2, carried=1)
    await store.apply_journal(run["id"], journal.records, 1)
    assert [row["missing"] for row in await store.rows("round_table", {"run_id": run["id"]})] == [1, 1]
    titles = [row["title"] for row in await store.rows("run_timeline", {"run_id": run["id"]}) if "closed" in row["title"]]
    assert titles == ["Round 1 closed: 1 of 2 counted", "Round 2 closed: 1 of 2 counted, and 1 of earlier rounds"]


async def test_how_the_nodes_are_by_their_last_hundred_messages(store: Store, run: Row, node: Row) -> None:
    journal = Journal().opened(num_rounds=120)
    for round in range(1, 111):
        journal.round_opened(round, BIG).update(round, BIG, "counted" if round % 10 else "failed").round_closed(round)
    await store.apply_journal(run["id"], journal.records, 1)
    await store.beat(node["id"], {"supernode_state": "running"})
    coordinator, site = await store.rows("node_overview")
    assert (coordinator["messages"], coordinator["counted"], coordinator["silent_s"]) == (0, None, None)
    assert (site["messages"], site["counted"], site["failed"]) == (100, 90, 10)
    assert (site["last_run_id"], site["last_round"], site["last_status"]) == (run["id"], 110, "failed")
    assert 0 <= site["silent_s"] < 60


async def test_what_happened_when(store: Store, run: Row, node: Row) -> None:
    journal = Journal().opened().round_opened(1, BIG).update(1, BIG, "refused").round_closed(1, 0, expected=1)
    await store.apply_journal(run["id"], journal.records, 1)
    lines = await store.rows("run_timeline", {"run_id": run["id"]})
    assert [line["title"] for line in lines] == [
        "The run was created",
        "An attempt began",
        "Round 1 began",
        "Site site-a: update.refused",
        "Round 1 was aggregated",
        "Round 1 closed: 0 of 1 counted",
    ]
    assert lines[0]["seconds"] == 0
    assert (lines[3]["what"], lines[3]["round"], lines[3]["node_name"]) == ("update.refused", 1, "Site site-a")


async def test_how_large_a_run_is(store: Store, run: Row, node: Row) -> None:
    await store.apply_journal(run["id"], Journal().opened().whole_round(1, BIG).records, 1)
    await store.append_log_lines(run["id"], "server.log", 0, 1, [{"text": "a", "source": "serverapp"}] * 3)
    (size,) = await store.rows("run_size", {"run_id": run["id"]})
    counted = {}
    for what, view in (
        ("rounds", "round"),
        ("updates", "update"),
        ("metrics", "metric"),
        ("log_lines", "log"),
        ("events", "event"),
    ):
        counted[what] = len(await store.rows(f"{view}_list", {"run_id": run["id"]}))
    assert {what: size[what] for what in counted} == counted
    assert counted["log_lines"] == 3
