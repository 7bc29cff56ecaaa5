"""The door: the two ways in which the Store reaches a database, whichever database it is."""

from collections.abc import Mapping
from typing import Any, Protocol

Row = dict[str, Any]
Where = Mapping[str, Any]


class Door(Protocol):
    """What a way to the database must do; values are JSON values in both directions.

    Raises only what db/errors.py names.
    """

    async def call(self, function: str, /, **args: Any) -> Any:
        """Call a SQL function by its name with named arguments and give its jsonb answer."""

    async def rows(self, view: str, where: Where | None = None, after: int | None = None, limit: int = 100) -> list[Row]:
        """Read a page of a view in the order of its `key`, starting after the key `after`.

        where: column -> value (equal), list (any of them) or None (is null). limit: 1 to 1000.
        """
