"""Refusals as OpenAPI has them."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from control_plane.errors import EspalierError


class Problem(BaseModel):
    """RFC 9457 problem details; facts such as run_id, key or last_lines are further members."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str


def refusals(errors: Sequence[type[EspalierError]]) -> dict[int | str, dict[str, Any]]:
    """Document what a route raises, for its `responses`: by status, each with its slugs."""
    by_status: dict[int, list[str]] = {}
    for error in errors:
        by_status.setdefault(error.status, []).append(f"{error.title} ({error.slug})")
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"model": Problem, "description": "; ".join(dict.fromkeys(told)), "content": content}
        for status, told in sorted(by_status.items())
    }
