"""docs/api.md is what the servers say of themselves."""

from tests.house import api_page


def test_the_page_is_what_the_servers_say() -> None:
    assert api_page.PAGE.read_text("utf-8") == api_page.page(), "run `python tests/house/api_page.py`"
