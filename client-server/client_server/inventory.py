"""What this site has to offer: its hardware, as seen, and its datasets, as its people have said."""

import asyncio
from typing import Any

from control_plane.files import read_json, write_json

from client_server.folder import SiteFolder
from client_server.hardware import describe_hardware
from client_server.reporter import Reporter
from client_server.schemas import Dataset

LOOK_AGAIN_S = 86_400.0


class Inventory:
    """Keeps the list of datasets, and reports it with the hardware whenever either is new."""

    def __init__(self, folder: SiteFolder, reporter: Reporter, *, share_label_distribution: bool) -> None:
        self._path = folder.inventory
        self._reporter = reporter
        self.is_label_distribution_shared = share_label_distribution
        self.hardware: dict[str, Any] = {}
        self.datasets = [Dataset.model_validate(one) for one in read_json(self._path) or []]

    async def run(self) -> None:
        """Look at the hardware, which takes seconds where there are GPUs, and report; then again each day."""
        while True:
            self.hardware = await describe_hardware()
            self.report()
            await asyncio.sleep(LOOK_AGAIN_S)

    def replace(self, datasets: list[Dataset]) -> None:
        """Keep another list of datasets, and report it."""
        write_json(self._path, [dataset.model_dump(mode="json") for dataset in datasets])
        self.datasets = datasets
        self.report()

    def report(self) -> None:
        """Tell the coordinator, once the hardware is known; label distributions stay here where the site wants it so."""
        if not self.hardware:
            return
        hidden = None if self.is_label_distribution_shared else {"label_distribution"}
        datasets = [dataset.model_dump(mode="json", exclude=hidden) for dataset in self.datasets]
        self._reporter.report("inventory", {"hardware": self.hardware, "datasets": datasets})
