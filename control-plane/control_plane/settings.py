"""What every server of ours can be told by its environment."""

import ipaddress
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

SYSTEM_DATA = Path("/usr/share/datasets")
"""Where Debian's dataset packages put what they bring."""


class ServerSettings(BaseSettings):
    """The base of a server's settings; a server redeclares host, port and cors with its own validation_alias."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", populate_by_name=True, hide_input_in_errors=True)

    espalier_home: Path = Field(default=Path("~/.local/state/espalier"), description="Folder of all state, mode 0700.")
    data_dirs: Annotated[list[Path], NoDecode] = Field(
        default_factory=lambda told: [told["espalier_home"] / "data", SYSTEM_DATA],
        description="Folders of data that workloads may read, by colons; those of the first one win.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Least level that is logged.")
    body_limit_bytes: int = Field(
        default=1_048_576, ge=1024, description="Largest request body, where a route says nothing else."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on; beyond loopback only with TLS.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    cors: Annotated[list[str], NoDecode] = Field(default_factory=list, description="Origins of foreign pages, by commas.")
    tls_certificate: Path | None = Field(default=None, description="PEM file of the REST server's certificate chain.")
    tls_key: Path | None = Field(default=None, description="PEM file of its key.")

    @field_validator("espalier_home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("data_dirs", mode="before")
    @classmethod
    def _folders(cls, value: Any) -> Any:
        parts = [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value
        return [Path(part).expanduser().absolute() for part in parts]

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("cors", mode="before")
    @classmethod
    def _origins(cls, value: Any) -> Any:
        origins = [part.strip().rstrip("/") for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        for origin in origins:
            if not str(origin).startswith(("http://", "https://")):
                raise ValueError("each origin begins with http:// or https://; a wildcard is not taken")
        return origins

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS_CERTIFICATE and TLS_KEY go together: set both or none")
        return self

    @model_validator(mode="after")
    def _tls_beyond_loopback(self) -> Self:
        """A server that can make a certificate of its own overrides this."""
        if self.tls_certificate is None and not is_loopback(self.host):
            raise ValueError(
                f"listening on {self.host} needs TLS: set TLS_CERTIFICATE and TLS_KEY, or listen on 127.0.0.1 behind a proxy"
            )
        return self

    @property
    def handed_on(self) -> dict[str, str]:
        """What an app, here or at a site, is told of these settings by its environment."""
        return {"ESPALIER_DATA_DIRS": os.pathsep.join(map(str, self.data_dirs))}


def is_loopback(host: str) -> bool:
    """Does this address reach this machine only?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


Settings = TypeVar("Settings", bound=ServerSettings)


def settings_or_exit(kind: type[Settings]) -> Settings:
    """Read settings from the environment; a wrong one ends the process with exit code 2.

    Each gets one sentence on stderr, which never shows its value: it may be a secret.
    """
    try:
        return kind()
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = ".".join(str(part) for part in problem["loc"]).upper()
            print(f"{name}: {problem['msg']}" if name else problem["msg"].removeprefix("Value error, "), file=sys.stderr)
        raise SystemExit(2) from None
