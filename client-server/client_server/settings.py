"""What a client server can be told by its environment; the only reader of it in this room."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from control_plane.settings import ServerSettings
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from client_server.folder import SiteFolder

ForwardLogs = Literal["none", "errors", "all"]
_SHA256 = re.compile(r"(sha256:)?[0-9a-f]{64}")
_PATH_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Settings(ServerSettings):
    """One participant's client server."""

    host: str = Field(
        "127.0.0.1", validation_alias="CLIENT_HOST", description="Address of this REST API; beyond loopback only with TLS."
    )
    port: int = Field(
        8001, ge=0, le=65535, validation_alias="CLIENT_PORT", description="Port of this REST API; 0 takes a free one."
    )
    cors: Annotated[list[str], NoDecode] = Field(
        default_factory=list, validation_alias="CLIENT_CORS", description="Origins of foreign pages, by commas."
    )
    participant_node_id: str = Field(
        "participant",
        description="The site's own name for its node; names its folder too: letters, digits, dot, dash, underscore.",
    )
    participant_node_name: str = Field("", max_length=200, description="The node's name for people; empty: PARTICIPANT_NODE_ID.")
    forward_logs: ForwardLogs = Field(
        "errors", description="What of its logs this site sends: none, errors (failures and their last 20 lines), or all lines."
    )
    share_label_distribution: bool = Field(True, description="Whether the label distributions of the inventory leave this site.")
    invitation: SecretStr | None = Field(None, description="Invitation to enrol with at start; ignored once enrolled.")
    invitation_file: Path | None = Field(None, description="File that holds the invitation, instead of INVITATION.")
    client_threads: int = Field(
        0,
        ge=0,
        le=4096,
        description="OMP_NUM_THREADS of the ClientApps; 0: this site's share of the cores it may use.",
    )
    warm_clientapps: bool = Field(
        True, description="Whether a Python that has imported what ClientApps need is kept, and forked for each message."
    )
    wasm_modules: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="sha256 of WebAssembly modules that may run here, by commas; empty: those alone that an app brings.",
    )
    spool_cap_bytes: int = Field(
        1_000_000_000, ge=1_000_000, description="Most bytes of reports kept while the admin server is away; log lines go first."
    )
    log_cap_bytes: int = Field(
        50_000_000, ge=100_000, description="Size at which the SuperNode's log and a ClientApp's output are truncated in place."
    )

    @field_validator("wasm_modules", mode="before")
    @classmethod
    def _digests(cls, value: Any) -> Any:
        digests = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        for place, digest in enumerate(digests, 1):
            if not _SHA256.fullmatch(digest):
                raise ValueError(f"entry {place} is no sha256:… with 64 digits 0-9a-f, as sha256sum prints them")
        return digests

    @field_validator("participant_node_id")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not _PATH_SAFE.fullmatch(value):
            raise ValueError("letters, digits, dot, dash and underscore only, at most 64, the first a letter or digit")
        return value

    @field_validator("participant_node_name")
    @classmethod
    def _fits_a_node_config(cls, value: str) -> str:
        if not value.isprintable() or ('"' in value and "'" in value):
            raise ValueError("printable characters only, and not both kinds of quotes")
        return value

    @model_validator(mode="after")
    def _one_invitation(self) -> Self:
        if self.invitation is not None and self.invitation_file is not None:
            raise ValueError("set INVITATION or INVITATION_FILE, not both")
        return self

    @property
    def node_name(self) -> str:
        """The node's name for people."""
        return self.participant_node_name or self.participant_node_id

    @property
    def folder(self) -> SiteFolder:
        """The folder of this site's state."""
        return SiteFolder(self.espalier_home / "sites" / self.participant_node_id)

    def read_invitation(self) -> str | None:
        """Read the invitation that was handed over, if any; raises OSError when INVITATION_FILE cannot be read."""
        if self.invitation_file is not None:
            return self.invitation_file.expanduser().read_text().strip()
        return None if self.invitation is None else self.invitation.get_secret_value()
