"""The artifact stores of one server: its disk, and the S3 bucket that its settings name."""

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from admin_server.artifacts.local import LocalStore
from admin_server.artifacts.store import ArtifactStore
from admin_server.errors import ArtifactStoreAway

if TYPE_CHECKING:
    from admin_server.artifacts.s3 import S3Store


class Stores:
    """Which store has an address, and where new files go. Its methods may block: boto3 takes a second to import."""

    def __init__(self, home: Path, artifacts_url: str | None, s3_endpoint_url: str | None) -> None:
        self.has_bucket = artifacts_url is not None
        self._local = LocalStore(home)
        self._root, self._endpoint_url = artifacts_url or "s3://", s3_endpoint_url
        self._s3: S3Store | None = None
        self._making = Lock()
        self._local.sweep()

    def newest(self) -> ArtifactStore:
        """Give the store that takes new files: the bucket if there is one, else the disk."""
        return self._bucket() if self.has_bucket else self._local

    def of(self, uri: str) -> ArtifactStore:
        """Give the store that has this address; what was kept before the settings changed is still found."""
        return self._bucket() if uri.startswith("s3://") else self._local

    def _bucket(self) -> "S3Store":
        with self._making:
            if self._s3 is None:
                try:
                    from admin_server.artifacts.s3 import S3Store  # an extra, and a second to import
                except ImportError:
                    raise ArtifactStoreAway("S3 needs boto3, which is not installed: pip install 'espalier[s3]'.") from None
                self._s3 = S3Store(self._root, self._endpoint_url)
            return self._s3
