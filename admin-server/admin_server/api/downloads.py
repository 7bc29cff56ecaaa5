"""A model as the body of an answer: by its ETag, in one piece or from a byte on, and never whole when it is not right."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from typing import Any

from starlette.responses import Response, StreamingResponse

from admin_server.artifacts.store import CHUNK_BYTES, Readable
from admin_server.errors import ArtifactDamaged, RangeUnsatisfiable
from admin_server.models import Models

RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")
BINARY = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", **BINARY},
    206: {"description": "The part that Range asks for.", **BINARY},
    304: {"description": "If-None-Match names its ETag."},
}


async def download(
    models: Models, model: dict[str, Any], name: str, *, if_none_match: str | None, asked_range: str | None, if_range: str | None
) -> Response:
    """Answer with a model's bytes. Raises RangeUnsatisfiable, ArtifactGone, ArtifactStoreAway."""
    etag, size = f'"{model["sha256"]}"', int(model["size_bytes"])
    filename = f"{name}{PurePosixPath(model['uri']).suffix}"
    headers = {"ETag": etag, "Content-Location": f"/models/{model['version']}", "Cache-Control": "private, no-cache"}
    if if_none_match is not None and names(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    begin, end = part(asked_range if if_range in (None, etag) else None, size)
    is_whole = (begin, end) == (0, size)
    headers |= {"Accept-Ranges": "bytes", "Content-Length": str(end - begin)}
    headers |= {} if is_whole else {"Content-Range": f"bytes {begin}-{end - 1}/{size}"}
    headers["Content-Disposition"] = f'attachment; filename="{filename}"'
    file = await models.open(model, begin)
    body = pieces(file, end - begin, str(model["sha256"]) if is_whole else None)
    return StreamingResponse(body, 200 if is_whole else 206, headers, media_type="application/octet-stream")


def names(if_none_match: str, etag: str) -> bool:
    """Does the header name this ETag? A weak one will do."""
    given = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return "*" in given or etag in given


def part(asked: str | None, size: int) -> tuple[int, int]:
    """Give the bytes asked for as begin and end; all where no range is, or one of a kind that we do not know.

    Raises RangeUnsatisfiable.
    """
    found = RANGE.fullmatch(asked or "")
    if found is None:
        return 0, size
    first, last, final = found.groups()
    if last and int(last) < int(first):
        return 0, size
    begin = max(size - int(final), 0) if final else int(first)
    end = min(int(last) + 1, size) if last else size
    if begin >= size:
        raise RangeUnsatisfiable(f"The model has {size} bytes.", size_bytes=size)
    return begin, end


async def pieces(file: Readable, length: int, sha256: str | None) -> AsyncIterator[bytes]:
    """Yield so many bytes. With a sha256 the last piece is sent only if all of them have it: a damaged file never comes whole.

    Raises ArtifactDamaged, ArtifactStoreAway; an answer that has begun breaks off then.
    """
    seen = hashlib.sha256()
    left = length
    try:
        while left > 0 and (piece := await asyncio.to_thread(file.read, min(CHUNK_BYTES, left))):
            left -= len(piece)
            seen.update(piece)
            if left == 0 and sha256 is not None and seen.hexdigest() != sha256:
                break
            yield piece
    finally:
        file.close()
    if left > 0 or (sha256 is not None and seen.hexdigest() != sha256):
        raise ArtifactDamaged(f"A model is not what was stored: its sha256 is not {sha256}.", sha256=sha256)
