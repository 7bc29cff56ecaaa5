import inspect
import io
import logging
from collections.abc import Iterator

import pytest
from control_plane import logs

_log = logging.getLogger("some.room")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("INFO", stream)
    yield stream
    root.handlers[:], root.level = before


def test_a_record_is_one_line_with_the_callers_file_and_line_and_its_facts(stream: io.StringIO) -> None:
    token = logs.request_id.set("abc")
    _log.info("run %s began", 7, extra={"run_id": "7", "node_name": 'site "a"'})
    frame = inspect.currentframe()
    assert frame is not None
    line_number = frame.f_lineno - 3
    logs.request_id.reset(token)
    [line] = stream.getvalue().splitlines()
    assert line.startswith("at=20")
    assert f" level=INFO where=some.room:test_logs.py:{line_number} request_id=abc " in line
    assert line.endswith(r'message="run 7 began" run_id=7 node_name="site \"a\""')


def test_a_level_below_is_not_written(stream: io.StringIO) -> None:
    _log.debug("quiet")
    logging.getLogger("httpx").info("GET http://…")
    assert stream.getvalue() == ""


def test_a_traceback_stays_on_the_line_of_its_record(stream: io.StringIO) -> None:
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        _log.exception("failed\nbadly")
    [line] = stream.getvalue().splitlines()
    assert r"message=\"failed\nbadly\"".replace('\\"', '"') in line
    assert "ValueError: one" in line


@pytest.mark.parametrize(
    "secret",
    [
        "Authorization: Bearer s3cr3t-s3cr3t_s3cr3t",
        "{'authorization': 'bearer s3cr3t-s3cr3t'}",
        "espalier1.eyJzM2NyM3QiOjF9s3cr3t",
        "postgresql://espalier:s3cr3ts3cr3t@127.0.0.1/db",
        "token=s3cr3ts3cr3t",
        '{"node_token": "s3cr3ts3cr3t"}',
        "password: s3cr3ts3cr3t",
        "SUPABASE_API_KEY=s3cr3ts3cr3t",
        "-----BEGIN EC PRIVATE KEY-----\ns3cr3t\n-----END EC PRIVATE KEY-----",
    ],
)
def test_a_secret_is_never_written_wherever_it_stands(stream: io.StringIO, secret: str) -> None:
    _log.info("said %s", secret, extra={"fact": secret, "facts": {"nested": secret}})
    try:
        raise RuntimeError(secret)
    except RuntimeError:
        _log.exception("raised")
    assert "s3cr3t" not in stream.getvalue()
    assert "***" in stream.getvalue()


def test_ordinary_words_are_left_as_they_are() -> None:
    for text in ("this token is unknown or revoked", "http://127.0.0.1:8000/runs?after=12", "bearer of news", "tokens: 3"):
        assert logs.redact(text) == text


def test_a_long_word_costs_no_more_than_its_length(stream: io.StringIO) -> None:
    _log.info("GET /%s", "a-" * 200_000)  # with a pattern that is quadratic this takes an hour
    assert "token" not in stream.getvalue()
    assert logs.redact("x_token=s3cr3ts3cr3t") == "x_token=***"


def test_half_of_a_surrogate_pair_is_written_as_its_escape(stream: io.StringIO) -> None:
    _log.info("said %s", "\ud800")
    assert "\\ud800" in stream.getvalue()
