"""Settings of the upload service."""

from pydantic import Field, SecretStr, field_validator

from services.common.auth.signed_links import LINK_LIFE_SECONDS, MAX_LINK_LIFE_SECONDS
from services.common.bus.redis import validate_redis_url
from services.common.settings import AuthSettings, RedisSettings
from services.common.store.writer_settings import WriterSettings
from services.common.webhooks.endpoints import Endpoint, parse_endpoints
from services.common.webhooks.hook_settings import HookSettings, read_secret_file


class UploadSettings(WriterSettings, RedisSettings, AuthSettings, HookSettings):
    """The settings that the upload service adds."""

    port: int = Field(8001, ge=1, le=65535, description="port to listen on")
    max_file_size: int = Field(16 * 1024**3, ge=1, description="bytes: size of one file at most; 413 beyond")
    max_concurrent_uploads: int = Field(
        # Each takes 8 MiB, the process 128 MiB; together they fit into the 1 GiB of our deployments.
        110,
        ge=1,
        description="upload requests that one process receives at the same time; 503 beyond",
    )
    max_uploads_per_client: int = Field(
        0,
        ge=0,
        description="upload requests of one client address in one process at the same time; 429 beyond; 0: half of all",
    )
    allowed_media_types: tuple[str, ...] = Field(
        (), description='JSON list of accepted media types, as ["video/*"]; empty: all; 415 for others'
    )
    min_upload_rate: int = Field(
        256, ge=0, description="bytes per second: a client that sends less gets 408; 0: no minimum"
    )
    upload_rate_window: float = Field(
        30.0, gt=0, description="seconds: window over which GRIDCAST_MIN_UPLOAD_RATE is measured"
    )
    unfinished_upload_ttl: float = Field(
        86400.0, gt=0, description="seconds: an unfinished tus upload is kept for this long after its last byte"
    )
    webhooks: SecretStr = Field(
        SecretStr(""),
        description="endpoints of webhooks, a JSON list (docs/webhooks.md), the same for all replicas; [] where the API alone adds "
        "some; empty: no webhooks",
    )
    gc_interval: float = Field(
        10.0, ge=0, description="seconds: interval between two runs of the garbage collector; 0: none in this process"
    )

    link_life: float = Field(
        LINK_LIFE_SECONDS,
        ge=1,
        le=MAX_LINK_LIFE_SECONDS,
        description="seconds: a signed link whose maker asks for no other life ends after this",
    )

    @field_validator("webhooks")
    @classmethod
    def _check_webhooks(cls, value: SecretStr) -> SecretStr:
        if text := value.get_secret_value():
            parse_endpoints(text, read_secret_file)
        return value

    def webhook_endpoints(self) -> tuple[Endpoint, ...] | None:
        """The endpoints of the settings, None where there are no webhooks. Reads the files with their secrets."""
        text = self.webhooks.get_secret_value()
        return parse_endpoints(text, read_secret_file) if text else None

    _validate_redis_url = field_validator("redis_url")(validate_redis_url)
