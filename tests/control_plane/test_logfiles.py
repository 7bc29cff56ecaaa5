import os
from pathlib import Path

from control_plane.logfiles import LINE_LIMIT_BYTES, Line, Tail, last_lines, rotate_in_place
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_a_tail_gives_complete_lines_only_and_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    tail = Tail(path)
    assert tail.read() == []
    append(path, b"one\ntw")
    assert tail.read() == [Line(4, "one")]
    assert tail.read() == []
    append(path, b"o\r\n\nthree\n")
    assert tail.read() == [Line(9, "two"), Line(10, ""), Line(16, "three")]


def test_a_stored_offset_goes_on_after_a_restart_without_a_line_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    append(path, b"".join(b"line %d\n" % n for n in range(10)))
    first = Tail(path).read(4)
    assert texts(first + Tail(path, first[-1].end_offset).read()) == [f"line {n}" for n in range(10)]


def test_a_file_that_was_truncated_in_place_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    append(path, b"long line\n")
    tail = Tail(path)
    assert texts(tail.read()) == ["long line"]
    os.truncate(path, 0)
    assert tail.read() == []
    append(path, b"new\n")
    assert tail.read() == [Line(4, "new")]


def test_a_truncation_is_noticed_also_when_the_file_has_grown_beyond_the_old_place(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    append(path, b"old\n")
    tail = Tail(path)
    tail.read()
    os.truncate(path, 0)
    append(path, b"new one\nnew two\n")
    assert texts(tail.read()) == ["new one", "new two"]


def test_a_stored_offset_beyond_the_end_of_the_file_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    append(path, b"new\n")
    assert texts(Tail(path, 4000).read()) == ["new"]


def test_invalid_utf8_and_null_bytes_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    append(path, b"caf\xc3\xa9 \xff\x00 end\n")
    assert texts(Tail(path).read()) == ["caf\u00e9 \ufffd\ufffd end"]


def test_a_very_long_line_comes_in_pieces_even_without_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    append(path, b"x" * (LINE_LIMIT_BYTES + 10))
    tail = Tail(path)
    assert [len(line.text) for line in tail.read()] == [LINE_LIMIT_BYTES]
    append(path, b"\nnext\n")
    assert texts(tail.read()) == ["x" * 10, "next"]


def test_a_file_of_records_is_read_whole_up_to_its_own_limit(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    record = "x" * 200_000
    path.write_text(record + "\nnext\n")
    assert [line.text for line in Tail(path, line_limit_bytes=2**20).read()] == [record, "next"]


def test_a_very_long_line_is_cut_between_characters(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    text = "a" + "\u20ac" * LINE_LIMIT_BYTES
    append(path, text.encode() + b"\n")
    lines = texts(Tail(path).read())
    assert len(lines) == 4
    assert "".join(lines) == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=6), limit=st.integers(1, 5))
def test_however_the_bytes_arrive_the_lines_are_the_same(tmp_path: Path, data: bytes, cuts: list[int], limit: int) -> None:
    path = tmp_path / "property.log"
    path.write_bytes(b"")
    seen: list[str] = []
    offset = written = 0
    for cut in [*sorted(cuts), len(data)]:
        append(path, data[written : max(written, cut)])
        written = max(written, min(cut, len(data)))
        while lines := Tail(path, offset).read(limit):
            offset = lines[-1].end_offset
            seen += texts(lines)
    whole = data[: data.rfind(b"\n") + 1]
    assert offset == len(whole)
    expected = [part.removesuffix(b"\r").decode(errors="replace").replace("\0", "\ufffd") for part in whole.split(b"\n")[:-1]]
    assert seen == expected


def test_the_last_lines_include_an_incomplete_one_and_start_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    assert last_lines(path) == []
    append(path, b"\n")
    assert last_lines(path) == []
    append(path, b"".join(b"line %d\n" % n for n in range(40)) + b"Segmentation")
    assert last_lines(path, 3) == ["line 38", "line 39", "Segmentation"]
    assert len(last_lines(path)) == 20
    size = path.stat().st_size
    append(path, b" fault\n")
    assert last_lines(path, since_offset=size) == [" fault"]


def test_the_last_lines_of_a_huge_file_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    append(path, b"x" * 1_000_000 + b"\nend\n")
    assert [len(line) for line in last_lines(path)] == [2000, 3]


def test_rotation_in_place_leaves_the_writer_writing(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"old line\n")
        tail = Tail(path)
        tail.read()
        assert not rotate_in_place(path, 100)
        assert rotate_in_place(path, 5)
        writer.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "a.log.1").read_bytes() == b"old line\n"
    assert texts(tail.read()) == ["new"]
    assert not rotate_in_place(tmp_path / "absent.log", 0)


def test_what_is_no_plain_file_has_no_lines(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "folder", "missing"):
        assert Tail(tmp_path / name).read() == []
        assert last_lines(tmp_path / name) == []
        assert not rotate_in_place(tmp_path / name, 0)
