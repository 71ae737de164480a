"""Settings of the upload service."""

from pydantic import Field

from services.common.settings import MongoSettings, RedisSettings
from services.common.store.timings import StoreTimings


class UploadSettings(MongoSettings, RedisSettings):
    """The settings that the upload service adds."""

    port: int = Field(8001, ge=1, le=65535, description="port to listen on")
    max_file_size: int = Field(16 * 1024**3, ge=1, description="bytes of one file at most")
    max_concurrent_uploads: int = Field(
        200, ge=1, description="uploads that one process receives at the same time; more get 503"
    )
    allowed_media_types: tuple[str, ...] = Field(
        (), description='JSON list of the media types to accept, as ["video/*"]; empty: all'
    )
    min_upload_rate: int = Field(256, ge=0, description="bytes a second that a client must send; less gets 408")
    upload_rate_window: float = Field(30.0, gt=0, description="seconds over which the rate is measured")
    min_free_space: int = Field(
        2 * 1024**3, ge=0, description="bytes to keep free on the volume of the store; 0: no limit"
    )
    unfinished_upload_ttl: float = Field(
        86400.0, gt=0, description="seconds after its last byte that a tus upload is kept"
    )
    lease_ttl: float = Field(30.0, gt=0, description="seconds without a renewal after which a writer's lease ends")
    tombstone_ttl: float = Field(
        3600.0, ge=0, description="seconds that replaced and deleted files are kept for downloads in progress"
    )
    second_purge_delay: float = Field(
        600.0, ge=0, description="seconds after which the blocks of a crashed writer are deleted a second time"
    )
    gc_interval: float = Field(
        10.0, ge=0, description="seconds between two runs of the garbage collector; 0: none in this process"
    )

    def store_timings(self) -> StoreTimings:
        """The settings that the store needs."""
        return StoreTimings(
            lease_ttl=self.lease_ttl,
            tombstone_ttl=self.tombstone_ttl,
            second_purge_after=self.second_purge_delay,
        )
