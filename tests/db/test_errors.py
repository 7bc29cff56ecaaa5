import pytest

from db import errors


def every(kind: type[errors.DatabaseError]) -> list[type[errors.DatabaseError]]:
    return [kind, *(below for one in kind.__subclasses__() for below in every(one))]


def test_the_list_at_the_top_of_the_file_names_every_error() -> None:
    assert errors.__doc__ is not None
    named = {line.split()[0] for line in errors.__doc__.splitlines()[2:] if line.strip()}
    assert named == {kind.__name__ for kind in every(errors.DatabaseError)}


@pytest.mark.parametrize(
    ("code", "detail", "constraint", "expected"),
    [
        ("ES001", "run-1", None, errors.ActiveRunExists("run-1")),
        ("ES002", "used", None, errors.InvitationRefused("used")),
        ("ES003", "", None, errors.NodeExists("said")),
        ("ES004", "", None, errors.Stale("said")),
        ("ES005", "", None, errors.NoSuchRow("said")),
        ("ES006", "", None, errors.BadValue("said")),
        ("23505", "", "nodes_project_id_external_id_key", errors.NodeExists()),
        ("23505", "", "some_other_key", errors.BadValue("said")),
        ("23503", "", None, errors.NoSuchRow("said")),
        ("23514", "", None, errors.BadValue("said")),
        ("22P02", "", None, errors.BadValue("said")),
        ("42703", "", None, errors.BadValue("said")),
        ("42883", "", None, errors.MissingFunction("said")),
        ("57P01", "", None, errors.DatabaseUnavailable("said")),
        ("08006", "", None, errors.DatabaseUnavailable("said")),
        ("53300", "", None, errors.DatabaseUnavailable("said")),
        ("53100", "", None, errors.DatabaseFull()),
        ("25006", "", None, errors.DatabaseReadOnly()),
        ("42501", "", None, errors.DatabaseError("said (SQLSTATE 42501)")),
    ],
)
def test_each_answer_of_postgres_has_its_error(
    code: str, detail: str, constraint: str | None, expected: errors.DatabaseError
) -> None:
    found = errors.from_sqlstate(code, "said", detail, constraint)
    assert (type(found), str(found), vars(found)) == (type(expected), str(expected), vars(expected))


def test_an_error_without_words_says_its_docstring() -> None:
    assert str(errors.NodeExists()) == "A node with this external id is enrolled already; remove it first."


@pytest.mark.parametrize(
    ("found", "advice"),
    [(None, "no Espalier schema: run `python -m db migrate`"), ("1", "run `python -m db migrate`"), ("3", "update Espalier")],
)
def test_a_schema_that_does_not_fit_says_what_to_do(found: str | None, advice: str) -> None:
    assert advice in str(errors.SchemaMismatch(found, "2"))


def test_a_connection_that_a_full_disk_refuses_is_told_from_one_that_is_not_made() -> None:
    """libpq gives the words of the server alone, as Postgres 18.6 has them here."""
    full = 'connection to server at "127.0.0.1", port 5432 failed: FATAL:  could not write init file: No space left on device'
    assert type(errors.unreachable(full)) is errors.DatabaseFull
    assert type(errors.unreachable("connection refused")) is errors.DatabaseUnavailable
