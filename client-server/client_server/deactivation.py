"""Set a dead SuperNode offline with its own key; Flower would hold its place for up to 60 s and refuse the next start."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

_log = logging.getLogger(__name__)


async def deactivate(argv: Sequence[str], env: Mapping[str, str], *, timeout_s: float = 20.0) -> bool:
    """Run flower_runtime.deactivate; False, with its last words in the log, when it could not."""
    child = await asyncio.create_subprocess_exec(
        *argv,
        env=dict(env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await asyncio.wait_for(child.communicate(), timeout_s)
    except TimeoutError:
        _log.warning("the SuperNode was not set offline within %g s", timeout_s)
        return False
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        _log.warning("the SuperNode was not set offline: %s", output.decode(errors="replace").strip()[-500:])
    return child.returncode == 0
