"""Reads the revocations every second, so that one is known everywhere within two."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from services.common.aio.cancellation import cancel_and_wait
from services.common.auth.revocations import Revocation, RevocationList
from services.common.errors import GridcastError

REVOCATION_POLL_SECONDS = 1.0

_log = logging.getLogger("gridcast.auth")

ReadRevocations = Callable[[], Awaitable[Sequence[Revocation] | None]]
"""Reads the current revocations; None where they were lost. Raises GridcastError where they cannot be read now."""


class RevocationPoller:
    """Keeps the list of one process up to date.

    `on_change` is called when it changed, `on_read` is awaited with each list that was read: it may pass it on.
    """

    def __init__(
        self,
        revocations: RevocationList,
        read: ReadRevocations,
        on_change: Callable[[], object],
        on_read: Callable[[Sequence[Revocation]], Awaitable[object]] | None = None,
    ) -> None:
        self._list = revocations
        self._read = read
        self._on_change = on_change
        self._on_read = on_read
        self._fault = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Read now, and every second from now on."""
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Stop."""
        await cancel_and_wait(self._task)

    async def poll(self) -> None:
        """Read once. What cannot be read leaves the list as it is. Never raises."""
        try:
            found = await self._read()
            if found is None:
                self._list.forget()
            elif self._list.replace(found):
                self._on_change()
            if found is not None and self._on_read is not None:
                await self._on_read(found)
            self._fault = ""
        except (GridcastError, ValueError) as error:
            if str(error) != self._fault:
                self._fault = str(error)
                _log.warning("the revocations could not be read: %s", error)
        except Exception:  # noqa: BLE001  # the next poll runs nevertheless
            _log.exception("unhandled exception while reading revocations")

    async def _run(self) -> None:
        while True:
            await self.poll()
            await asyncio.sleep(REVOCATION_POLL_SECONDS)
