"""Projects: this server's own, and what else its database holds."""

from fastapi import APIRouter

from admin_server.api.documented import problems
from admin_server.api.paging import page
from admin_server.deps import Admin, After, Limit, ServerState, TheStore
from admin_server.errors import ProjectNotFound
from admin_server.schemas import Page, Row

router = APIRouter(tags=["projects"])


@router.get("/projects", responses=problems())
async def every(admin: Admin, store: TheStore, after: After = None, limit: Limit = 100) -> Page:
    """List projects, with the server that holds each."""
    return await page(store, "project_list", {}, after, limit)


@router.get("/projects/{slug}", responses=problems(ProjectNotFound))
async def one(admin: Admin, store: TheStore, slug: str) -> Row:
    """Show a project."""
    rows = await store.rows("project_list", {"slug": slug}, limit=1)
    if not rows:
        raise ProjectNotFound(f"There is no project {slug}.", slug=slug)
    return rows[0]


@router.get("/artifacts", responses=problems())
async def artifacts(
    admin: Admin, store: TheStore, state: ServerState, after: After = None, limit: Limit = 100, sha256: str | None = None
) -> Page:
    """List the artifacts of all runs, newest first."""
    return await page(store, "artifact_list", {"project_id": state.project["id"], "sha256": sha256}, after, limit)


@router.get("/audit", responses=problems())
async def audit(admin: Admin, store: TheStore, state: ServerState, after: After = None, limit: Limit = 100) -> Page:
    """List who did what, newest first."""
    return await page(store, "audit_list", {"project_id": state.project["id"]}, after, limit)
