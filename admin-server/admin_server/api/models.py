"""Models: promote an artifact, go back to an earlier version, download one, ask where it comes from."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Response

from admin_server.api.documented import problems
from admin_server.api.downloads import DOWNLOAD, download
from admin_server.api.paging import page
from admin_server.deps import Admin, After, Limit, ServerState, TheAudit, TheModels, TheRuns, TheStore, WritingAdmin
from admin_server.errors import (
    ArtifactDamaged,
    ArtifactGone,
    ArtifactNotFound,
    ArtifactStoreAway,
    ModelNotFound,
    RangeUnsatisfiable,
    RunNotFound,
)
from admin_server.schemas import ModelPromotion, Page, Promotion, Row

router = APIRouter(prefix="/models", tags=["models"])
BYTES = (ArtifactGone, ArtifactDamaged, ArtifactStoreAway)
Which = Annotated[str, Path(pattern=r"^(latest|[1-9][0-9]{0,8})$", description="A version, or latest.")]
Version = Annotated[int, Path(ge=1, le=999_999_999)]


@router.post("", status_code=201, responses=problems(ArtifactNotFound, RunNotFound, *BYTES))
async def make(
    admin: WritingAdmin, models: TheModels, runs: TheRuns, audit: TheAudit, response: Response, request: ModelPromotion
) -> Row:
    """Promote an artifact: its bytes are copied and verified, and it becomes the next version and the latest."""
    if request.run_id is not None:
        artifact = await models.newest_of(await runs.id_of(request.run_id), request.role)
    else:
        artifact = await models.artifact(str(request.artifact_id))
    made = await models.make(artifact, str(admin.subject), request.why)
    await audit(admin, "model.make", str(made["version"]), artifact_id=artifact["id"], sha256=artifact["sha256"], why=request.why)
    response.headers["Location"] = f"/models/{made['version']}"
    return shown(made)


@router.get("", responses=problems())
async def every(admin: Admin, store: TheStore, state: ServerState, after: After = None, limit: Limit = 100) -> Page:
    """List the versions, newest first."""
    return await page(store, "model_list", {"project_id": state.project["id"]}, after, limit)


@router.get("/promotions", responses=problems())
async def promotions(admin: Admin, store: TheStore, state: ServerState, after: After = None, limit: Limit = 100) -> Page:
    """List who made which version the latest, when and why, newest first."""
    return await page(store, "promotion_list", {"project_id": state.project["id"]}, after, limit)


@router.get("/{which}", response_class=Response, responses={**problems(ModelNotFound, RangeUnsatisfiable, *BYTES), **DOWNLOAD})
async def one(
    admin: Admin,
    models: TheModels,
    state: ServerState,
    which: Which,
    if_none_match: Annotated[str | None, Header()] = None,
    range_: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Response:
    """Download a version, or the latest; its ETag is its sha256. If-None-Match and one Range are understood."""
    model = await models.one(which)
    name = f"{state.project['slug']}-{model['version']}"
    return await download(models, model, name, if_none_match=if_none_match, asked_range=range_, if_range=if_range)


@router.get("/{which}/lineage", responses=problems(ModelNotFound))
async def lineage(admin: Admin, models: TheModels, which: Which) -> Row:
    """Show what a version was made of: run, code, config, nodes, datasets, parent version; and its promotions."""
    return await models.lineage(which)


@router.post("/{version}/promote", responses=problems(ModelNotFound, *BYTES))
async def promote(admin: WritingAdmin, models: TheModels, audit: TheAudit, version: Version, request: Promotion) -> Row:
    """Make a version the latest again, an older one for example; its bytes are verified first."""
    promoted = await models.promote(version, str(admin.subject), request.why)
    await audit(admin, "model.promote", str(version), sha256=promoted["sha256"], why=request.why)
    return shown(promoted)


def shown(row: dict[str, Any]) -> Row:
    return {name: value for name, value in row.items() if name != "events"}
