"""Collects garbage once and exits, for a cron job beside services that do not collect themselves.

python -m services.upload.collect_garbage
"""

import asyncio

from services.common.bus.publisher import EventPublisher
from services.common.settings import load_settings
from services.common.store.factory import open_store
from services.common.store.garbage_collection_loop import GarbageCollectionLoop
from services.common.telemetry.json_logging import configure_logging
from services.common.uploads.outbox import OutboxPublisher
from services.upload.settings import UploadSettings
from services.upload.webhooks.endpoint_registry import EndpointRegistry
from services.upload.webhooks.webhooks import EventRelayer


async def run_standalone(settings: UploadSettings) -> None:
    """Collect everything that is due, and search for orphans once."""
    endpoints = settings.webhook_endpoints()
    store = open_store(settings, settings.store_timings(), settings.quota(), relays_events=endpoints is not None)
    relayer = None if endpoints is None else EventRelayer(store.webhooks, EndpointRegistry(store.webhooks, endpoints))
    try:
        async with EventPublisher.from_url(settings.redis_url.get_secret_value(), "/upload") as publisher:
            await store.uploads.ensure_schema()
            outbox = OutboxPublisher(store.uploads, publisher)
            loop = GarbageCollectionLoop(
                store.garbage, outbox.publish, None if relayer is None else relayer.relay_left_over
            )
            await loop.run_once()
            await loop.delete_orphans()
            await outbox.aclose()
    finally:
        await store.aclose()


if __name__ == "__main__":
    settings = load_settings(UploadSettings)
    configure_logging("gc", settings.log_level)
    asyncio.run(run_standalone(settings))
