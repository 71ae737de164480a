"""Settings of the upload service."""

from pydantic import Field

from services.common.settings import MongoSettings, RedisSettings
from services.common.store.timings import StoreTimings


class UploadSettings(MongoSettings, RedisSettings):
    """What the upload service adds."""

    port: int = Field(8001, ge=1, le=65535, description="port to listen on")
    max_file_size: int = Field(16 * 1024**3, ge=1, description="bytes of one file at the most")
    max_concurrent_uploads: int = Field(
        200, ge=1, description="uploads that one process receives at once; more get 503"
    )
    allowed_media_types: tuple[str, ...] = Field(
        (), description='JSON list of the types to take, as ["video/*"]; empty: all'
    )
    min_upload_rate: int = Field(256, ge=0, description="bytes a second that a client must send; less gets 408")
    upload_rate_window: float = Field(30.0, gt=0, description="seconds over which the rate is measured")
    min_free_space: int = Field(
        2 * 1024**3, ge=0, description="bytes that stay free where MongoDB stores; 0 does not look"
    )
    unfinished_upload_ttl: float = Field(
        86400.0, gt=0, description="seconds after its last byte that a tus upload is kept"
    )
    lease_ttl: float = Field(30.0, gt=0, description="seconds that a writer may be silent before its upload is litter")
    tombstone_ttl: float = Field(
        3600.0, ge=0, description="seconds that readers may go on with what was replaced or deleted"
    )
    second_purge_delay: float = Field(
        600.0, ge=0, description="seconds after which a dead writer's blocks are swept again"
    )
    gc_interval: float = Field(10.0, ge=0, description="seconds between two rounds of the janitor; 0: none here")

    def store_timings(self) -> StoreTimings:
        """What the store needs of these."""
        return StoreTimings(
            lease_ttl=self.lease_ttl,
            tombstone_ttl=self.tombstone_ttl,
            second_purge_after=self.second_purge_delay,
        )
