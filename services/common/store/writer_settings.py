"""Settings of the services that write media: upload and live. They share the quotas and the clocks of one store."""

from pydantic import Field

from services.common.settings import StoreSettings
from services.common.store.quotas import Quota
from services.common.store.timings import StoreTimings


class WriterSettings(StoreSettings):
    """Settings of processes that write media. They must be the same for all of them."""

    max_bytes_per_owner: int = Field(
        0,
        ge=0,
        description="bytes: files and unfinished uploads of one subject together; 507 beyond; 0: no limit",
    )
    max_unfinished_uploads_per_owner: int = Field(
        0, ge=0, description="unfinished uploads of one subject; 429 beyond; 0: no limit"
    )
    min_free_space: int = Field(
        2 * 1024**3, ge=0, description="bytes: free space to keep on the store's disk; 507 below; 0: not checked"
    )
    lease_ttl: float = Field(
        30.0,
        gt=0,
        description="seconds: an upload whose lease is not renewed for this long has no writer, and unless it is tus it is deleted",
    )
    tombstone_ttl: float = Field(
        3600.0,
        ge=0,
        description="seconds: replaced and deleted files are kept for this long, for downloads in progress",
    )
    second_purge_delay: float = Field(
        600.0,
        ge=0,
        description="seconds: the chunks of a writer that lost its upload are deleted a second time after this",
    )

    def quota(self) -> Quota:
        """The limits of each owner."""
        return Quota(self.max_bytes_per_owner, self.max_unfinished_uploads_per_owner)

    def store_timings(self) -> StoreTimings:
        """The settings that the store needs."""
        return StoreTimings(
            lease_ttl=self.lease_ttl,
            tombstone_ttl=self.tombstone_ttl,
            second_purge_after=self.second_purge_delay,
        )
