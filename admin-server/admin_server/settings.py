"""What the admin server can be told by its environment, which nothing else here reads."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from control_plane.settings import ServerSettings, is_loopback
from cryptography.x509 import load_pem_x509_certificate
from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from db.supabase_keys import why_not


class Settings(ServerSettings):
    host: str = Field("127.0.0.1", validation_alias=AliasChoices("ADMIN_HOST", "host"), description="Address of the REST API.")
    port: int = Field(
        8000,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("ADMIN_PORT", "port"),
        description="Port of the REST API; 0: a free one.",
    )
    cors: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        validation_alias=AliasChoices("ADMIN_CORS", "cors"),
        description="Origins of foreign pages, by commas.",
    )
    public_url: str | None = Field(None, description="Where sites reach the REST API; goes into invitations.")
    tls_ca: Path | None = Field(None, description="PEM file of the CA that sites are to trust there, if their machines do not.")
    superlink_port: int = Field(9092, ge=1, le=65535, description="The SuperLink's port on 127.0.0.1, which serves everything.")
    apps_dir: Path = Field(Path(), description="Folder whose subfolders are the Flower apps that may be run.")
    database_url: SecretStr | None = Field(None, description="DSN of an existing Postgres instead of the embedded one.")
    supabase_url: str | None = Field(None, description="Address of a Supabase project instead of it.")
    supabase_key: SecretStr | None = Field(None, description="Secret key of that project.")
    project_slug: str = Field(
        "fed-project", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", description="The project this server serves."
    )
    project_name: str = Field("Federated Project", min_length=1, max_length=200, description="Its name, for people.")
    coordinator_node_id: str = Field("coordinator", min_length=1, max_length=200, description="External id of its node.")
    coordinator_node_name: str = Field("Coordinator", min_length=1, max_length=200, description="Its name, for people.")
    artifacts_url: str | None = Field(None, description="s3://BUCKET/PREFIX for models and copies of artifacts.")
    s3_endpoint_url: str | None = Field(None, description="Address of the S3 server, where it is not AWS.")
    max_attempts: int = Field(5, ge=1, description="Attempts in a row without a committed round, after which a run has failed.")
    log_retention_days: float = Field(30, gt=0, description="Rows that are not kept for ever go after this.")

    @field_validator("apps_dir")
    @classmethod
    def _existing(cls, value: Path) -> Path:
        folder = value.expanduser().absolute()
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder")
        return folder

    @field_validator("tls_ca")
    @classmethod
    def _certificate(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                load_pem_x509_certificate(value.read_bytes())
            except OSError as error:
                raise ValueError(f"cannot be read: {error.strerror}") from None
        return value

    @field_validator("public_url")
    @classmethod
    def _url_of_sites(cls, value: str | None) -> str | None:
        if value is None:
            return None
        told = re.fullmatch(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?/?", value)
        url = urlsplit(value)
        if told is None or not url.hostname or not 0 < (url.port or 443) < 65536:
            raise ValueError("must be https://HOST or https://HOST:PORT, with a name of ASCII letters or an address")
        if url.scheme == "http" and not is_loopback(url.hostname):
            raise ValueError("http:// would send tokens in the clear: sites come by https://")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _tls_beyond_loopback(self) -> Self:
        return self  # without TLS_CERTIFICATE one is made by the server's own CA: see front.py

    @field_validator("supabase_url")
    @classmethod
    def _url_of_supabase(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = urlsplit(value)
        if not url.hostname or not (url.scheme == "https" or (url.scheme == "http" and is_loopback(url.hostname))):
            raise ValueError("must be https://HOST, as Supabase shows it: the secret key goes there")
        return value.rstrip("/")

    @field_validator("supabase_key")
    @classmethod
    def _key_of_a_server(cls, value: SecretStr | None) -> SecretStr | None:
        reason = why_not(value.get_secret_value()) if value is not None else None
        if reason is not None:
            raise ValueError(reason)
        return value

    @field_validator("artifacts_url")
    @classmethod
    def _bucket(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w!.*'()-]+)*/?", value, re.ASCII):
            raise ValueError("must be s3://BUCKET or s3://BUCKET/PREFIX")
        if value is not None and find_spec("boto3") is None:
            raise ValueError("needs boto3, which is not installed: pip install 'espalier[s3]'")
        return value

    @field_validator("s3_endpoint_url")
    @classmethod
    def _url_of_s3(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/@?#]+/?", value):
            raise ValueError("must be https://HOST or http://HOST:PORT; credentials are boto3's own")
        return value

    @model_validator(mode="after")
    def _one_database(self) -> Self:
        if (self.supabase_url is None) != (self.supabase_key is None):
            raise ValueError("SUPABASE_URL and SUPABASE_KEY go together: set both or none")
        if self.supabase_url is not None and self.database_url is not None:
            raise ValueError("DATABASE_URL and SUPABASE_URL are two ways to one database: set one of them")
        return self
