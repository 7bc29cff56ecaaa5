from control_plane import errors
from control_plane.errors import EspalierError, Invalid, NotFound, family


def test_every_class_has_a_status_a_title_and_a_slug_of_its_own() -> None:
    ours = [kind for kind in family() if kind.__module__ == "control_plane.errors"]
    assert len({kind.slug for kind in ours}) == len(ours) > 10
    assert len({kind.title for kind in ours}) == len(ours)
    for kind in ours:
        assert 400 <= kind.status <= 599
        assert kind.slug == kind.slug.lower().replace("_", "-").replace(" ", "-")


def test_the_drawing_at_the_top_of_the_file_is_the_family() -> None:
    drawn = {tuple(line.strip("│├└─ ").split()) for line in (errors.__doc__ or "").splitlines() if "  " in line.strip("│├└─ ")}
    ours = {(kind.__name__, str(kind.status), kind.slug) for kind in family() if kind.__module__ == "control_plane.errors"}
    assert drawn == ours


def test_the_detail_is_what_was_said_or_else_the_first_line_of_the_docstring() -> None:
    assert str(NotFound("There is no run 7.", run_id="7")) == "There is no run 7."
    assert NotFound("There is no run 7.", run_id="7").facts == {"run_id": "7"}
    assert Invalid().detail == "The request is understood, but a value in it is not acceptable."
    assert EspalierError().detail == "Something went wrong on the server."
