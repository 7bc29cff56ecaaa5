from datetime import UTC, datetime
from typing import Any

import pytest

from db.json_values import dated, storable


@pytest.mark.parametrize(
    "value", [None, 1, 2.5, True, "text", ["a", {"b": None}], {"ü": "😀", "n": 2**64 - 1}, "\\u0000 as text"]
)
def test_what_jsonb_takes_goes_through_untouched(value: Any) -> None:
    assert storable(value) == value


def test_what_jsonb_refuses_is_replaced_at_any_depth() -> None:
    assert storable({"a\x00": ["b\x00", ("c\ud800", 1)]}) == {"a\ufffd": ["b\ufffd", ["c\ufffd", 1]]}


def test_what_is_no_json_says_why_and_keeps_its_seq() -> None:
    assert storable({"seq": 7, "x": float("nan")})["seq"] == 7
    assert "unstorable" in storable({"x": float("inf")})
    assert "unstorable" in storable([object()])
    knot: list[Any] = []
    knot.append(knot)
    assert "unstorable" in storable(knot)


def test_times_of_a_row_and_of_rows_within_become_utc() -> None:
    row = dated(
        {
            "created_at": "2026-11-22T10:00:00+02:00",
            "ended_at": None,
            "data": {"at": "x"},
            "events": [{"at": "2026-11-22T08:00:00Z"}],
        }
    )
    moment = datetime(2026, 11, 22, 8, tzinfo=UTC)
    assert row == {"created_at": moment, "ended_at": None, "data": {"at": "x"}, "events": [{"at": moment}]}


def test_what_is_nested_so_deep_that_no_answer_could_show_it_is_not_stored() -> None:
    def nested(levels: int) -> Any:
        return {"seq": 3, "data": nested(levels - 1)} if levels else "[" * 200

    assert storable(nested(64)) == nested(64)
    assert storable(nested(65)) == {"unstorable": "nested more than 64 deep", "seq": 3}
