"""GET and PUT /inventory: hardware and datasets of this site."""

from fastapi import APIRouter

from client_server.api.documented import problems
from client_server.deps import SiteDep
from client_server.schemas import InventoryAnswer, InventoryRequest

router = APIRouter(tags=["inventory"])


@router.get("/inventory", responses=problems())
async def get_inventory(site: SiteDep) -> InventoryAnswer:
    """Give hardware and datasets."""
    inventory = site.inventory
    return InventoryAnswer(
        hardware=inventory.hardware,
        datasets=inventory.datasets,
        label_distribution_shared=inventory.is_label_distribution_shared,
    )


@router.put("/inventory", responses=problems())
async def put_inventory(body: InventoryRequest, site: SiteDep) -> InventoryAnswer:
    """Replace the list of datasets."""
    site.inventory.replace(body.datasets)
    return await get_inventory(site)
