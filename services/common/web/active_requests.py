"""The requests in progress that a token or a link authorised: ended when it is revoked, however large their bodies are."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.common.auth.identity import Identity
from services.common.errors import InvalidLink, InvalidToken


class ActiveRequests:
    """Knows the task and the identity of each. `check` raises InvalidToken or InvalidLink for a revoked identity."""

    def __init__(self, check: Callable[[Identity], None]) -> None:
        self._check = check
        self._identities: dict[asyncio.Task[object], Identity] = {}
        self._cut: set[asyncio.Task[object]] = set()

    @contextmanager
    def track(self, identity: Identity | None) -> Iterator[None]:
        """Count the current task in. Raises InvalidToken or InvalidLink in it where it is cut."""
        task = asyncio.current_task()
        if identity is None or identity.is_anonymous or task is None:
            yield
            return
        self._identities[task] = identity
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._cut:
                raise
            task.uncancel()
            raise (InvalidToken if identity.link is None else InvalidLink)("it was revoked") from None
        finally:
            del self._identities[task]
            self._cut.discard(task)

    def cut_revoked(self) -> None:
        """Cancel the tasks of all requests whose identity is revoked."""
        for task, identity in list(self._identities.items()):
            try:
                self._check(identity)
            except (InvalidToken, InvalidLink):
                self._cut.add(task)
                task.cancel()
