"""The upload hook under load and cancellation, with a receiver on loopback."""

import asyncio
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from services.common.errors import ServiceUnavailable
from services.common.webhooks import upload_hook
from services.common.webhooks.endpoints import Endpoint
from services.common.webhooks.hook_protocol import ALLOWED, HookQuestion
from services.common.webhooks.signing import make_secret
from services.common.webhooks.upload_hook import UploadHook
from tests.support.waiting import eventually_async
from tests.support.webhook_receiver import answering, run_receiver, silent

pytestmark = pytest.mark.anyio
QUESTION = HookQuestion("put", "", "n", 1, "text/plain")


async def test_questions_beyond_the_limit_are_refused_at_once_and_open_no_breaker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upload_hook, "MAX_CONNECTIONS", 4)
    async with run_receiver(silent) as receiver:
        hook = UploadHook(Endpoint("h", receiver.url, (make_secret(),), is_private_allowed=True))
        held = [asyncio.create_task(hook.ask(QUESTION)) for _ in range(4)]
        await eventually_async(lambda: len(receiver.requests) == 4)
        for _ in range(10):
            with pytest.raises(ServiceUnavailable, match="too many"):
                await hook.ask(QUESTION)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        receiver.respond = answering(200, b'{"allow":true}')
        assert await hook.ask(QUESTION) == ALLOWED, "clients that go away are no failures of the hook"
        await hook.aclose()


class ModuleSearches:
    """Records what is looked for in the folders of modules, and finds nothing."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        self.names.append(fullname)
        return None


async def test_a_question_looks_for_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is not installed would be searched for in all folders, several times for each request."""
    searches = ModuleSearches()
    async with run_receiver(answering(200, b'{"allow":true}')) as receiver:
        hook = UploadHook(Endpoint("h", receiver.url, (make_secret(),), is_private_allowed=True))
        await hook.ask(QUESTION)
        monkeypatch.setattr(sys, "meta_path", [searches, *sys.meta_path])
        await hook.ask(QUESTION)
        await hook.aclose()
    assert searches.names == []
