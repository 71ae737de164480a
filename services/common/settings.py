"""Settings that every service has. Environment variables `GRIDCAST_*`; a secret may be in a file that `GRIDCAST_*_FILE` names.

Each service's `settings.py` adds its own. Nothing is read at import: `create_app` builds its settings.
"""

import os
import sys
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

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
    name, *place = map(str, fault["loc"])
    variable = name if name.startswith(ENV_PREFIX) or name.isupper() else f"{ENV_PREFIX}{name.upper()}"
    return f"{' '.join([variable, *place])}: {fault['msg'].removeprefix('Value error, ')}"
