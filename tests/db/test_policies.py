"""What a round's policies leave in the rows: who is waited for, what was carried, what sites scored, why a run ended early."""

from typing import Any

from db.door import Row
from db.store import Store


async def apply(store: Store, run: Row, journal: Any) -> Row:
    answer = await store.apply_journal(run["id"], journal.records, len(journal.records))
    assert answer["refused"] == 0
    (row,) = await store.rows("run_list", {"id": run["id"]})
    return row


async def statuses(store: Store, run: Row) -> list[tuple[int, str, str, int | None]]:
    rows = await store.rows("update_list", {"run_id": run["id"]})
    return sorted((row["round"], row["flower_node_id"], row["status"], row["counted_in_round"]) for row in rows)


async def test_a_run_that_waits_for_nodes_says_for_how_many_and_until_when(store: Store, run: Row, journal: Any) -> None:
    row = await apply(store, run, journal.opened().waiting(1, 1).waiting(1, 2))
    assert row["waiting"] == {"round": 1, "available": 2, "wanted": 3, "until": "2026-11-22T08:00:00+00:00"}
    assert (await apply(store, run, journal.round_opened(1, "4")))["waiting"] is None
    journal.waiting(2, 0)
    assert (await apply(store, run, journal.closed("failed")))["waiting"] is None


async def test_a_run_that_the_server_ends_waits_no_more(store: Store, run: Row, journal: Any) -> None:
    assert (await apply(store, run, journal.opened().waiting(1, 1)))["waiting"] is not None
    ended = await store.move_run(run["id"], "stopped")
    assert ended is not None
    assert ended["waiting"] is None


async def test_a_carried_update_counts_in_the_round_that_took_it(store: Store, run: Row, journal: Any) -> None:
    journal.opened().round_opened(1, "4", "5").update(1, "4").update(1, "5", "late", counted_in_round=None)
    journal.round_closed(1, counted=1, expected=2, carried=0).round_opened(2, "4")
    journal.update(1, "5", "counted", counted_in_round=2).update(2, "4", counted_in_round=2)
    await apply(store, run, journal.round_closed(2, counted=2, carried=1))
    assert await statuses(store, run) == [(1, "4", "counted", 1), (1, "5", "counted", 2), (2, "4", "counted", 2)]
    assert [(row["counted"], row["carried"]) for row in await store.rows("round_list", {"run_id": run["id"]})] == [(1, 0), (2, 1)]


async def test_what_was_carried_into_a_round_that_a_crash_undid_counts_no_more(store: Store, run: Row, journal: Any) -> None:
    journal.opened().round_opened(1, "4", "5").update(1, "4").update(1, "5", "late").round_closed(1, counted=1)
    journal.round_opened(2, "4").update(1, "5", "counted", counted_in_round=2)
    await apply(store, run, journal)
    assert (1, "5", "counted", 2) in await statuses(store, run)
    journal.round_opened(2, "4").update(2, "4")
    await apply(store, run, journal.round_closed(2, counted=1))
    assert (1, "5", "late", None) in await statuses(store, run)
    (undone,) = await store.rows("update_list", {"run_id": run["id"], "status": "late"})
    assert (undone["num_examples"], undone["metrics"], undone["cause"]["type"]) == (None, {}, "RoundReopened")
    metrics = await store.rows("metric_list", {"run_id": run["id"], "scope": "node"})
    assert [(row["round"], row["flower_node_id"]) for row in metrics] == [(1, "4"), (2, "4")]


async def test_scores_of_sites_join_the_rounds_metrics_once_it_is_closed(store: Store, run: Row, journal: Any) -> None:
    await apply(store, run, journal.opened().whole_round(1, "4").scored(1, eval_accuracy=0.75))
    (row,) = await store.rows("round_list", {"run_id": run["id"]})
    assert row["metrics"] == {"loss": 1.5, "accuracy": 0.5, "eval_accuracy": 0.75}
    (metric,) = await store.rows("metric_list", {"run_id": run["id"], "name": "eval_accuracy"})
    assert (metric["scope"], metric["value"], metric["round"]) == ("clients", 0.75, 1)
    early = await store.apply_journal(run["id"], journal.round_opened(2, "4").scored(2, eval_accuracy=1.0).records, 99)
    assert early["refused"] == 1


async def test_a_run_that_was_good_enough_says_so(store: Store, run: Row, journal: Any) -> None:
    journal.opened().whole_round(1, "4").add(
        "run.closed", status="completed", last_round=1, cause=None, ended_early="accuracy is 0.9, and stop-at is 0.8"
    )
    row = await apply(store, run, journal)
    assert (row["status"], row["ended_early"]) == ("completed", "accuracy is 0.9, and stop-at is 0.8")
