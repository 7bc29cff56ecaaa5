"""An artifact store in an S3 bucket, at AWS or wherever S3_ENDPOINT_URL leads; credentials are boto3's own affair."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from admin_server.artifacts.store import Readable, Source
from admin_server.errors import ArtifactGone, ArtifactStoreAway

PART_BYTES = 8 * 2**20  # larger files go up in parts of this size, one after the other, so that memory stays small
ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})


class S3Store:
    """Its addresses are s3://bucket/key; those of another bucket can be read too."""

    def __init__(self, root: str, endpoint_url: str | None) -> None:
        """root: s3://bucket or s3://bucket/prefix. Nothing is asked of the server yet.

        Raises ArtifactStoreAway for what boto3 cannot make sense of.
        """
        self._root = root.rstrip("/")
        told = Config(
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 3},
            # boto3's own checksums go in a trailer that many other servers do not know; what was sent is read back instead.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with told_apart(self._root):
            self._client = boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=told)
        self._transfer = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, use_threads=False)

    def uri_of(self, name: str) -> str:
        """Put the name below the bucket and prefix of the settings."""
        return f"{self._root}/{name}"

    def put(self, uri: str, source: Source) -> None:
        """Upload, in parts where it is large; S3 shows an object only when it is whole. boto3 closes the file."""
        bucket, key = split(uri)
        with told_apart(uri):
            self._client.upload_fileobj(source, bucket, key, Config=self._transfer)

    def open(self, uri: str, begin: int = 0) -> Readable:
        """Raises ArtifactGone."""
        bucket, key = split(uri)
        part = {"Range": f"bytes={begin}-"} if begin else {}
        with told_apart(uri):
            body = self._client.get_object(Bucket=bucket, Key=key, **part)["Body"]
        return Streamed(body, uri)

    def remove(self, uri: str) -> None:
        """Delete the object."""
        bucket, key = split(uri)
        with told_apart(uri):
            self._client.delete_object(Bucket=bucket, Key=key)


class Streamed:
    """An object's body; that it broke halfway is said as of the store."""

    def __init__(self, body: Any, uri: str) -> None:
        self._body, self._uri = body, uri

    def read(self, size: int = -1, /) -> bytes:
        with told_apart(self._uri):
            return bytes(self._body.read(None if size < 0 else size))

    def close(self) -> None:
        self._body.close()


def split(uri: str) -> tuple[str, str]:
    """Give bucket and key."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


@contextmanager
def told_apart(uri: str) -> Iterator[None]:
    """Raise ArtifactGone for an object that is not there, ArtifactStoreAway for everything else, by S3's own code."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in ABSENT:
            raise ArtifactGone(f"There is no object {uri}.", uri=uri) from None
        raise ArtifactStoreAway(f"S3 refuses {uri}: {code}.", uri=uri, code=code) from None
    except (BotoCoreError, S3UploadFailedError) as error:
        code = type(error.__cause__ or error).__name__
        raise ArtifactStoreAway(f"S3 cannot be reached for {uri}: {error}", uri=uri, code=code) from None
