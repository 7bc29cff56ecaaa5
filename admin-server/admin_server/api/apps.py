"""Apps: upload a FAB, see what an app may be configured with."""

from fastapi import APIRouter, Request

from admin_server.api.documented import problems
from admin_server.deps import Admin, TheApps, TheAudit, WritingAdmin
from admin_server.errors import AppInvalid, AppNotFound
from admin_server.schemas import AppConfig, AppUploaded

router = APIRouter(prefix="/apps", tags=["apps"])
FAB_LIMIT_BYTES = 10 * 2**20  # Flower takes no larger one
FAB_BODY = {
    "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.post("", status_code=201, responses=problems(AppInvalid), openapi_extra=FAB_BODY)
async def upload(admin: WritingAdmin, apps: TheApps, audit: TheAudit, request: Request) -> AppUploaded:
    """Keep a FAB; the answer's app is its sha256, under which it can be run."""
    fab = await apps.upload(await request.body())
    await audit(admin, "app.upload", fab.sha256, fab_id=fab.fab_id)
    return AppUploaded(app=fab.sha256, fab_hash=fab.sha256)


@router.get("/{app}/config", responses=problems(AppInvalid, AppNotFound))
async def config(admin: Admin, apps: TheApps, app: str) -> AppConfig:
    """Show every run-config key that an app declares, with its default."""
    fab = await apps.fab(app)
    return AppConfig(app=app, fab_hash=fab.sha256, fab_id=fab.fab_id, version=fab.version, config=fab.declared)
