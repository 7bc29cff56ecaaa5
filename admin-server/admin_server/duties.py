"""What only the holder of the lease does: keep the SuperLink, watch runs and nodes, prune old rows, copy artifacts."""

from admin_server.artifacts.uploads import LOOK_S as UPLOAD_S
from admin_server.artifacts.uploads import Uploads
from admin_server.attempts import Attempts
from admin_server.background import Background, Step
from admin_server.nodes import LOOK_S, OFFLINE_LOOK_S, Nodes
from admin_server.runs import Runs
from admin_server.superlink import Superlink

PRUNE_S = 3600.0


class Duties:
    """Begun when the lease is gained, ended when it is lost or the server stops."""

    def __init__(
        self,
        superlink: Superlink,
        runs: Runs,
        attempts: Attempts,
        nodes: Nodes,
        prune: Step,
        uploads: Uploads,
        background: Background,
    ) -> None:
        self._superlink = superlink
        self._runs = runs
        self._has_begun = False
        self._attempts = attempts
        self._nodes = nodes
        self._prune = prune
        self._uploads = uploads
        self._background = background

    async def begin(self) -> None:
        """Take up what an earlier holder on this machine left, and go on."""
        self._has_begun = True
        await self._superlink.begin()
        await self._attempts.begin()
        self._background.repeat("marking of lost nodes", self._nodes.mark_lost, LOOK_S)
        self._background.repeat("look at the SuperLink's nodes", self._nodes.look_at_superlink, OFFLINE_LOOK_S)
        self._background.repeat("pruning", self._prune, PRUNE_S)
        self._background.repeat("copies of artifacts", self._uploads.step, UPLOAD_S)

    async def end(self) -> None:
        """Stop watching, since another server does it from now on; processes go on."""
        self._has_begun = False
        await self._background.end()

    async def give_up(self) -> None:
        """End runs, executor and SuperLink, if they are this server's; nothing is left behind."""
        if self._has_begun:
            self._nodes.stop_marking()
            await self._superlink.take_down(self._runs.end_all)
