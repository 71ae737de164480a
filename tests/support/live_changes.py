"""Two replicas of the live service on one store of a kind, of which one can be held at a step of a change of files.

Fixture: `pair`, on the store of the fixture `stores`.
"""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from services.common.settings import StoreSettings
from tests.support.databases import ServerProcess
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.fragmented_mp4 import fragment, init
from tests.support.opened_stores import proxied_store
from tests.support.processes import ServiceProcess, run_service

FIRST = init() + fragment(0, 2) + fragment(2, 2, fill=300_000)
SECOND = init(size=(90, 160)) + fragment(0, 2) + fragment(2, 2, fill=200)
STEPS = {"the note": b"closing ", "the commit": b"video/mp4", "the upload": b" (2).mp4"}
"""By the name of a step of a change: the text in the first command of that step to the database."""
ACQUIRE = b"holder"
"""The text in the command by which a stream is acquired."""


@dataclass
class Pair:
    """`held` is behind the proxy, where the database is a server; `free` and the stream service `library` are not."""

    held: ServiceProcess
    free: ServiceProcess
    library: ServiceProcess
    proxy: FaultProxy | None


@pytest.fixture
def pair(stores: list[StoreSettings], redis_server: ServerProcess, tmp_path: Path) -> Iterator[Pair]:
    more = {"GRIDCAST_LIVE_INTAKE_FACTOR": "0", "GRIDCAST_MIN_FREE_SPACE": "0"}
    with contextlib.ExitStack() as running:
        env, behind, proxy = running.enter_context(proxied_store(stores[0], redis_server.url, more))
        free = running.enter_context(run_service("services.live", tmp_path, env))
        library = running.enter_context(run_service("services.stream", tmp_path, env))
        held = running.enter_context(run_service("services.live", tmp_path, behind))
        yield Pair(held, free, library, proxy)


def held_change(
    pair: Pair, step: str, change: Callable[[], httpx.Response]
) -> contextlib.AbstractContextManager[Future[int]]:
    """Send a request that changes the file, and run the block while its replica is held at a step of the change."""
    return held_request(pair, STEPS[step], change)


@contextlib.contextmanager
def held_request(pair: Pair, text: bytes, request: Callable[[], httpx.Response]) -> Iterator[Future[int]]:
    """Send a request, and run the block while its replica is held in front of the command that has this text.

    Yields the future of its status, see `status_of`; the replica goes on after the block.
    """
    assert pair.proxy is not None, "SQLite has no connection to hold"
    with ThreadPoolExecutor(1) as pool:
        pair.proxy.hold_at(text)
        status = pool.submit(status_of, request)
        try:
            assert pair.proxy.held.wait(20), "the request has not come to this step"
            yield status
        finally:
            pair.proxy.fault = Fault.NONE


def status_of(send: Callable[[], httpx.Response]) -> int:
    """The status of an answer; 0 where the connection was closed without one."""
    try:
        return send().status_code
    except httpx.TransportError:
        return 0
