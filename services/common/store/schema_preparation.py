"""Creates the indexes or tables of the store as soon as its database is available."""

import asyncio
import logging

from services.common.errors import GridcastError, ServiceUnavailable
from services.common.store.store_state import SchemaOwner

SCHEMA_RETRY_SECONDS = 1.0
"""Between two attempts while the database is unavailable."""

_log = logging.getLogger("gridcast.store")


class SchemaPreparation:
    """Repeats the preparation until it succeeds; until then the process is not ready."""

    def __init__(self) -> None:
        self.error: str | None = None
        """Why the last attempt failed, for clients; None before the first and after the last."""

    def check_prepared(self) -> None:
        """Raise ServiceUnavailable where the last attempt failed."""
        if self.error:
            raise ServiceUnavailable(self.error)

    async def run(self, store: SchemaOwner) -> None:
        """Create what is missing. Returns when it is there."""
        last_logged = ""
        while True:
            try:
                await store.ensure_schema()
            except GridcastError as error:
                self.error = error.detail
            except Exception as error:  # noqa: BLE001  # a missing right, for example: granting it must not need a restart
                # A RuntimeError is the store's own; the text of others may name what a client must not see.
                is_public = isinstance(error, RuntimeError)
                self.error = str(error) if is_public else "store initialization failed"
                if str(error) != last_logged:
                    last_logged = str(error)
                    _log.error("store initialization failed: %s", error)  # the message is complete without a traceback
            else:
                self.error = None
                return
            await asyncio.sleep(SCHEMA_RETRY_SECONDS)
