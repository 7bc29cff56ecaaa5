"""What the lifespan yields: everything a request can need, built once."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from admin_server.apps import Apps
from admin_server.audit import Audit
from admin_server.database import Database
from admin_server.feed import Feed
from admin_server.invitations import Invitations
from admin_server.lease import Lease
from admin_server.models import Models
from admin_server.nodes import Nodes
from admin_server.reports import Intake
from admin_server.runs import Runs
from admin_server.settings import Settings
from admin_server.superlink import Superlink
from admin_server.wanted import Wanted


@dataclass(frozen=True)
class State:
    """One server's parts."""

    settings: Settings
    feed: Feed
    database: Database
    project: dict[str, Any]
    lease: Lease
    superlink: Superlink
    apps: Apps
    audit: Audit
    runs: Runs
    nodes: Nodes
    models: Models
    invitations: Invitations
    intake: Intake
    wanted: Wanted
    instance_id: str
    started_at: datetime
