"""One read for all who ask the same: fifty followers of a run wake at once and want the same rows after the same key."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

FRESH_S = 0.5  # a server that only reads hears no news of its own: what it reads is not kept for longer


class SharedReads:
    """Answers that are shared until there is news of what they are about, and for half a second at most."""

    def __init__(self) -> None:
        self._answers: dict[Hashable, asyncio.Task[Any]] = {}

    async def ask(self, question: Hashable, read: Callable[[], Awaitable[Any]]) -> Any:
        """Give the answer that somebody else is waiting for or has just got, else read. Raises what `read` raises, to all.

        question: names everything that the answer depends on, the number of the last news too.
        """
        answer = self._answers.get(question)
        if answer is None:
            answer = self._answers[question] = asyncio.create_task(_read(read))
            answer.add_done_callback(lambda done: self._forget_soon(question, done))
        return await asyncio.shield(answer)  # who hangs up takes nothing from the others

    def _forget_soon(self, question: Hashable, done: asyncio.Task[Any]) -> None:
        _ = done.cancelled() or done.exception()  # seen, also when all who asked have hung up
        asyncio.get_running_loop().call_later(FRESH_S, self._answers.pop, question, None)


async def _read(read: Callable[[], Awaitable[Any]]) -> Any:
    return await read()
