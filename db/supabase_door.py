"""The door to a Supabase project, by its REST interface (PostgREST) and Supabase's own client."""

from typing import Any

import httpx
from postgrest.exceptions import APIError
from supabase import AsyncClient, AsyncClientOptions

from db.door import Row, Where
from db.errors import BadValue, DatabaseUnavailable, MissingFunction
from db.postgrest_answers import filter_of, look_at_status, refusal
from db.whole_calls import WholeCalls

# What is sent again when its connection broke halfway: reads, and writes whose second answer is the first one again. Any other
# write may be done already, and its second answer would hide that (`applied` false, no events): whoever called decides.
_SAY = ("schema_version", "find_token", "tail_offset", "check_invitation")
_REPEATABLE = {*_SAY, "open_project", "hold_lease", "release_lease", "add_token", "begin_attempt", "note_attempt", "lose_attempt"}
_ROLLED_BACK = ("40001", "40P01")  # a deadlock or its like: nothing of the call stayed, so any call may be made again


class SupabaseDoor:
    """Reach a project by its URL and its secret key; nobody ever signs in here, as that would change whose key is sent."""

    def __init__(self, url: str, key: str, *, max_connections: int = 8, timeout_s: float = 5.0, answer_s: float = 15.0) -> None:
        self._url, self._calls = url, WholeCalls()
        self._http = httpx.AsyncClient(
            http2=False,  # a stale HTTP/2 connection fails every call on it (supabase-py issue 1064)
            timeout=httpx.Timeout(answer_s, connect=timeout_s, pool=timeout_s),  # Supabase ends a statement of ours after 8 s
            limits=httpx.Limits(max_connections=max_connections, keepalive_expiry=20),
            event_hooks={"response": [look_at_status]},
        )
        options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=self._http)
        options.postgrest_client_retry = False  # it would wait 1, 2 and 4 s, and the lease is renewed every 5 s
        self._client = AsyncClient(url, key, options)

    async def open(self) -> None:
        """Ask once. Raises DatabaseUnavailable, KeyRefused."""
        try:
            await self.call("schema_version")
        except MissingFunction:
            return  # Store.check_schema says what to do

    async def close(self) -> None:
        """End what is under way, and close every connection."""
        await self._calls.end()
        await self._http.aclose()

    async def call(self, function: str, /, **args: Any) -> Any:
        """Call a function with named arguments by rpc."""
        return await self._answer(self._client.rpc(function, args), function in _REPEATABLE)

    async def rows(self, view: str, where: Where | None = None, after: int | None = None, limit: int = 100) -> list[Row]:
        """Read a page of a view by keyset; PostgREST cuts pages after 1000 rows and says nothing."""
        query = self._client.table(view).select("*").order("key").limit(limit)
        for column, value in (where or {}).items():
            query = query.filter(column, *filter_of(value))
        page: list[Row] = await self._answer(query if after is None else query.gt("key", after), is_repeatable=True)
        return page

    async def _answer(self, request: Any, is_repeatable: bool, repeats: int = 2) -> Any:
        if self._http.is_closed:
            raise DatabaseUnavailable("The door to the database is closed.")
        try:
            return (await self._calls.make(request.execute())).data
        except httpx.PoolTimeout as error:
            raise DatabaseUnavailable("All connections to the database are busy.") from error
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            if is_repeatable and repeats:
                return await self._answer(request, is_repeatable, repeats - 1)
            raise DatabaseUnavailable(f"Supabase cannot be reached at {self._url} ({error}); is the project paused?") from error
        except httpx.TransportError as error:
            raise DatabaseUnavailable(f"Supabase at {self._url} does not answer ({type(error).__name__}).") from error
        except APIError as error:
            if error.code in _ROLLED_BACK and repeats:
                return await self._answer(request, is_repeatable, repeats - 1)
            raise refusal(error) from error
        except ValueError as error:  # what JSON cannot say: nan, half a surrogate pair
            raise BadValue(str(error)) from error
