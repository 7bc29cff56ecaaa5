"""A journal's lines: what is a record, and what is refused with the name of the field."""

import json
from typing import Any

import pytest
from admin_server.journal import parse_line

from tests.admin_server.admin_app import RECORDS


@pytest.mark.parametrize("record", RECORDS, ids=[record["kind"] for record in RECORDS])
def test_every_kind_of_record_is_read_unchanged(record: dict[str, Any]) -> None:
    read = parse_line(json.dumps(record))
    assert {**read, "at": None} == {**record, "at": None}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seq": 0}, "seq"),
        ({"seq": "1"}, "seq"),
        ({"at": "yesterday"}, "at"),
        ({"attempt": "x"}, "attempt"),
        ({"kind": "round.exploded"}, "kind"),
        ({"round": 0}, "round"),
        ({"metrics": {"loss": "nan"}}, "metrics.loss"),
        ({"surprise": 1}, "surprise"),
        ({"commit": {"file": "../../x", "sha256": "a" * 64, "size_bytes": 1}}, "commit.file"),
        ({"commit": None}, "commit"),
    ],
)
def test_a_malformed_record_is_refused_by_the_name_of_its_field(change: dict[str, Any], named: str) -> None:
    closed = next(record for record in RECORDS if record["kind"] == "round.closed")
    with pytest.raises(ValueError, match=named):
        parse_line(json.dumps({**closed, **change}))


@pytest.mark.parametrize("line", ["", "{", "null", "[]", '"text"', '{"seq": 1}', '{"seq": NaN}'])
def test_what_is_no_record_at_all_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="line"):
        parse_line(line)


def test_a_number_that_is_not_finite_is_refused() -> None:
    closed = next(record for record in RECORDS if record["kind"] == "round.closed")
    with pytest.raises(ValueError, match=r"metrics\.loss"):
        parse_line(json.dumps({**closed, "metrics": {"loss": float("nan")}}))
