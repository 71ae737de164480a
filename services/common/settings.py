"""Settings that every service has. Environment variables `GRIDCAST_*`; a secret may be in a file that `GRIDCAST_*_FILE` names.

Each service's `settings.py` adds its own. Nothing is read at import: `create_app` builds its settings.
"""

import os
import sys
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from services.common.auth.key_ring import parse_key_ring
from services.common.auth.modes import AuthMode, check_open_mode, is_loopback
from services.common.auth.rights import parse_scope
from services.common.database_url import check_database_url
from services.common.http.hosts import DEFAULT_ALLOWED_HOSTS, parse_allowed_hosts
from services.common.mongodb_uri import check_mongodb_uri
from services.common.variables import PREFIX as ENV_PREFIX
from services.common.variables import UnknownVariableError, check_names

SettingsT = TypeVar("SettingsT", bound="Settings")


class SecretFilesSource(PydanticBaseSettingsSource):
    """Reads `GRIDCAST_NAME_FILE`: the path of a file that holds the value (container secrets)."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the stripped content of the named file, or None. Raises SettingsError where it cannot be read."""
        del field
        variable = f"{ENV_PREFIX}{field_name.upper()}_FILE"
        path = os.environ.get(variable)
        try:
            return (Path(path).read_text("utf-8").strip() if path else None), field_name, False
        except OSError as error:
            # Without the path: it may be the secret itself, written into the wrong variable.
            raise SettingsError(f"{variable} names a file that cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{variable} names a file that is not UTF-8") from None

    def __call__(self) -> dict[str, Any]:
        """Return all values from files; lists have the same form as in the environment. Raises SettingsError."""
        found: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            text, _, is_complex = self.get_field_value(field, name)
            try:
                value = self.prepare_field_value(name, field, text, is_complex)
            except ValueError as error:
                raise SettingsError(f'error parsing value for field "{name}" from its file') from error
            if value is not None:
                found[name] = value
        return found


class Settings(BaseSettings):
    """Settings of every process. Refuses an environment in which a `GRIDCAST_*` variable is unknown or was renamed."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="ignore", populate_by_name=True, hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", description="IP address to listen on")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    allowed_hosts: str = Field(
        DEFAULT_ALLOWED_HOSTS,
        description="names that Host may have, separated by commas, beside localhost and IP addresses; `*.a.example` for all below "
        "a.example; `*` for all, where a proxy checks them; 421 for others",
    )
    auth: AuthMode = Field(
        "off",
        description="who may use this instance. off: all, only while it is reached from this machine alone; hs256: tokens signed "
        "with GRIDCAST_AUTH_SECRET; jwks: those of an identity provider",
    )
    auth_allow_open: bool = Field(
        default=False, description="1: `off` is accepted although other machines reach this instance"
    )
    public_address: str = Field(
        "",
        description="address at which clients reach the gateway, the same for all processes; empty: GRIDCAST_HOST of each",
    )
    metrics_port: int = Field(0, ge=0, le=65535, description="port of /metrics for Prometheus; 0: none")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level that is logged: debug, info, warning or error"
    )
    shutdown_timeout: float = Field(
        20.0,
        ge=0,
        le=600,
        description="seconds: open requests may go on for this long after SIGTERM, then their connections are closed",
    )

    @field_validator("allowed_hosts")
    @classmethod
    def _check_allowed_hosts(cls, value: str) -> str:
        parse_allowed_hosts(value)
        return value

    @model_validator(mode="after")
    def _refuse_to_be_open_by_accident(self) -> "Settings":
        check_open_mode(self.auth, self.public_address or self.host, allow_open=self.auth_allow_open)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources: arguments, then the environment, then files."""
        del dotenv_settings, file_secret_settings
        check_names(os.environ)
        return init_settings, env_settings, SecretFilesSource(settings_cls)


class RedisSettings(Settings):
    """Settings of processes that use Redis."""

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        validation_alias=AliasChoices(f"{ENV_PREFIX}REDIS_URL", "REDIS_URL"),
        description="redis://, rediss://, or redis+sentinel:// or rediss+sentinel://host:port,host:port/NAME/DB",
    )


class MongoSettings(Settings):
    """Settings of processes that use MongoDB."""

    mongodb_uri: SecretStr = Field(
        SecretStr("mongodb://127.0.0.1:27017"),
        validation_alias=AliasChoices(f"{ENV_PREFIX}MONGODB_URI", "MONGODB_URI"),
        description="connection string of MongoDB, in any of its forms",
    )
    mongodb_database: str = Field("gridcast", min_length=1, max_length=63, description="name of the database")
    mongodb_driver: Literal["motor", "pymongo"] = Field(
        "motor", description="client library: motor, or pymongo for PyMongo's own asyncio API"
    )

    @field_validator("mongodb_uri")
    @classmethod
    def _check_mongodb_uri(cls, value: SecretStr) -> SecretStr:
        check_mongodb_uri(value.get_secret_value())
        return value


class StoreSettings(MongoSettings):
    """Settings of processes that read or write media. With the store `files` those of MongoDB are not used."""

    store: Literal["gridfs", "files"] = Field(
        "gridfs", description="where media are stored: gridfs (MongoDB), or files (a SQL database and a folder)"
    )
    database_url: SecretStr = Field(
        SecretStr(""),
        description="database of the files store: sqlite:///PATH or postgresql+asyncpg://...; "
        "empty: an SQLite file in GRIDCAST_FILES_DIR",
    )
    files_dir: str = Field("", validate_default=True, description="folder of the files store; must be set for it")

    @property
    def store_dependency(self) -> str:
        """The name under which /readyz reports the store."""
        return "mongodb" if self.store == "gridfs" else "files"

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr) -> SecretStr:
        if url := value.get_secret_value():
            check_database_url(url)
        return value

    @field_validator("files_dir")
    @classmethod
    def _check_files_dir(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.data.get("store") == "files":
            raise ValueError("the files store needs a folder")
        if not value.isprintable():
            raise ValueError("a path has no control characters")
        return value


class AuthSettings(Settings):
    """Settings of processes that verify tokens: all but the gateway, which only routes."""

    auth_secret: SecretStr = Field(
        SecretStr(""),
        description="secrets of 32 bytes or more, separated by commas or line ends, each `name secret [end]` or alone; the first "
        "signs, all verify. Needed by every mode but off: the mode jwks derives the keys of sockets and links from it",
    )
    auth_jwks_url: str = Field("", description="the key set of the identity provider, https; for the mode jwks")
    auth_jwks_allow_http: bool = Field(
        default=False, description="1: http is accepted for the key set although it is not on this machine"
    )
    auth_audience: str = Field(
        "gridcast", min_length=1, description="one of the values that `aud` of a token must have"
    )
    auth_issuer: str = Field("", description="the value that `iss` of a token must have; empty: not looked at")
    auth_scope_claim: str = Field("scope", min_length=1, description="claim that holds the rights of a token")
    auth_default_scope: str = Field(
        "", description="rights of tokens whose claim has none of this API; {sub} stands for the subject"
    )
    auth_anonymous_scope: str = Field("", description="rights of callers without a token")
    auth_max_token_life: float = Field(86400.0, gt=0, description="seconds: a token that expires later is refused")

    @model_validator(mode="after")
    def _check_auth(self) -> "AuthSettings":
        if self.auth == "off":
            return self
        secret = self.auth_secret.get_secret_value()
        if not secret:
            raise ValueError(
                f"{ENV_PREFIX}AUTH={self.auth} needs {ENV_PREFIX}AUTH_SECRET: openssl rand -hex 32 makes one"
            )
        try:
            parse_key_ring(secret)
        except ValueError as error:
            raise ValueError(f"{ENV_PREFIX}AUTH_SECRET: {error}") from None
        parse_scope(self.auth_anonymous_scope)
        parse_scope(self.auth_default_scope)
        if self.auth == "jwks":
            _check_jwks_url(self.auth_jwks_url, allow_http=self.auth_jwks_allow_http)
        return self


def _check_jwks_url(text: str, *, allow_http: bool) -> None:
    variable = f"{ENV_PREFIX}AUTH_JWKS_URL"
    if not text:
        raise ValueError(f"{ENV_PREFIX}AUTH=jwks needs {variable}")
    try:
        url = urlsplit(text)
        host = url.hostname or ""
    except ValueError:
        host = ""
    if not host or url.username is not None or url.fragment or url.scheme not in {"http", "https"}:
        raise ValueError(f"{variable} is not an https URL without a user name and a fragment")
    if url.scheme == "http" and not allow_http and not is_loopback(host):
        raise ValueError(f"{variable} must be https: who can change its answer can sign tokens")


def load_settings(settings_class: type[SettingsT], **values: Any) -> SettingsT:
    """Return the settings of this process, where `values` precede the environment.

    Exits with 1 and one line on stderr where a variable is unknown, renamed or invalid.

    The line names the variables and the faults, never a value: a value may be a secret, or be one in the wrong variable.
    """
    try:
        return settings_class(**values)
    except ValidationError as error:
        sys.exit(f"gridcast: {'; '.join(map(_describe, error.errors(include_input=False, include_url=False)))}")
    except (UnknownVariableError, SettingsError) as error:
        sys.exit(f"gridcast: {error}")


def _describe(fault: ErrorDetails) -> str:
    """The variable and what is wrong with it. A field with aliases is named by its first alias, which is a variable."""
    if not fault["loc"]:  # a rule over several settings, whose text names them
        return fault["msg"].removeprefix("Value error, ")
    name, *place = map(str, fault["loc"])
    variable = name if name.startswith(ENV_PREFIX) or name.isupper() else f"{ENV_PREFIX}{name.upper()}"
    return f"{' '.join([variable, *place])}: {fault['msg'].removeprefix('Value error, ')}"
