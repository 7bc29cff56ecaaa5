"""What the engine writes is what docs/journal.schema.json and docs/journal.md say."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from flwr.app import Context, Error, Message

if TYPE_CHECKING:
    from tests.flower_app.conftest import MakeFederation

DOCS = Path(__file__).parents[2] / "docs"
KINDS = {"run.opened", "round.opened", "update", "round.closed", "artifact", "artifact.removed", "run.paused", "run.resumed"}
KINDS |= {"run.closed", "round.waiting", "round.scored"}


@pytest.fixture
def written(make_federation: MakeFederation) -> list[dict[str, Any]]:
    """Give the records of a run that meets everything: refused, failed, lost and late updates, scores, pause, stop, resume."""
    federation = make_federation(num_rounds=5, checkpoint_every=2, min_available=1, round_timeout_s=30.0, client_eval_every=2)
    answer = federation.grid.nodes[101].answer

    def refused_once(message: Message, context: Context) -> Message:
        reply: Any = answer(message, context)
        if message.metadata.group_id == "1":
            reply.content.metric_records["metrics"]["num-examples"] = 0
        return reply  # type: ignore[no-any-return]

    federation.grid.nodes[101].answer = refused_once
    federation.grid.add(104, answer=lambda message, context: Message(Error(8, "died\nlast words"), reply_to=message))
    federation.grid.add(105, answer=lambda message, context: None)
    federation.grid.on_push = lambda messages: setattr(federation.grid.nodes[102], "online", False)
    for node in federation.grid.nodes.values():
        node.online = False
        federation.clock.after(0.5, partial(setattr, node, "online", True))
    federation.clock.after(1.5, lambda: federation.want("pause"))
    federation.clock.after(40.5, lambda: federation.want("run"))
    federation.clock.after(43.0, lambda: federation.want("stop"))
    federation.run(attempt=1)
    federation.want("run")
    federation.run(attempt=2)
    records: list[dict[str, Any]] = federation.journal()
    return records


def test_every_record_of_an_eventful_run_fits_the_schema(written: list[dict[str, Any]]) -> None:
    schema = json.loads((DOCS / "journal.schema.json").read_text())
    check = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for record in written:
        check.validate(record)
    assert {record["kind"] for record in written} == KINDS
    statuses = {record["status"] for record in written if record["kind"] == "update"}
    assert statuses == {"counted", "refused", "failed", "lost", "late"}
    assert [record["status"] for record in written if record["kind"] == "run.closed"] == ["stopped", "completed"]


def excerpt() -> list[dict[str, Any]]:
    blocks = re.findall(r"```jsonl\n(.*?)```", (DOCS / "journal.md").read_text(), re.DOTALL)
    return [json.loads(line) for block in blocks for line in block.splitlines()]


def test_the_excerpt_in_the_docs_shows_every_kind_as_it_is_written_now(written: list[dict[str, Any]]) -> None:
    shown = {record["kind"]: list(record) for record in excerpt()}
    assert shown == {record["kind"]: list(record) for record in written}
    schema = json.loads((DOCS / "journal.schema.json").read_text())
    for record in excerpt():
        jsonschema.validate(record, schema)
    assert [record["seq"] for record in excerpt()] == sorted(record["seq"] for record in excerpt())


def test_the_docs_name_every_field(written: list[dict[str, Any]]) -> None:
    text = (DOCS / "journal.md").read_text()
    for kind in KINDS:
        section = re.search(rf"^\| `{re.escape(kind)}` \|(.*)$", text, re.MULTILINE)
        assert section, kind
        fields = {field for record in written if record["kind"] == kind for field in record}
        unnamed = {field for field in fields - {"seq", "at", "attempt", "kind"} if f"`{field}`" not in section[1]}
        assert not unnamed, (kind, unnamed)
    for status in ("counted", "refused", "failed", "lost", "late"):
        assert f"`{status}`" in text
    for field in next(record["cause"] for record in written if record.get("cause")):
        assert f"`{field}`" in text


def test_the_docs_name_every_file_of_a_run_directory(written: list[dict[str, Any]], tmp_path: Path) -> None:
    text = (DOCS / "journal.md").read_text()
    for path in (path.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("*") if path.is_file()):
        first = path.parts[0]
        assert re.search(rf"^{re.escape(first)}\b", text, re.MULTILINE), path
