"""SIGTERM while the database is silent: it takes connections and answers nothing, as one that is stopped or cut off."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from services.common.server.run import EXIT_MARGIN_SECONDS
from services.common.settings import StoreSettings
from tests.support.databases import ServerProcess
from tests.support.fault_proxy import Fault, run_fault_proxy
from tests.support.fragmented_mp4 import fragment, init
from tests.support.live_changes import status_of
from tests.support.live_client import make_stream
from tests.support.opened_stores import proxied_store, with_stores
from tests.support.processes import ServiceProcess, run_service
from tests.support.sizes import BATCH_SIZE
from tests.support.upload_client import TusUpload
from tests.support.waiting import eventually
from tests.support.websocket_client import WebSocketClient

SHUTDOWN_TIMEOUT = 1.0
SLACK_SECONDS = 1.5
LIMIT_SECONDS = SHUTDOWN_TIMEOUT + EXIT_MARGIN_SECONDS + SLACK_SECONDS
DATA = os.urandom(3 * BATCH_SIZE)
STORES = with_stores(("gridfs-motor",), ("gridfs-pymongo",), ("files-postgresql",))


class Service:
    """A service behind the proxy, `held`, an upload service that is not, and the variables of others that are not."""

    def __init__(
        self, held: ServiceProcess, upload: ServiceProcess, env: dict[str, str], silence: Callable[[], None]
    ) -> None:
        self.held = held
        self.upload = upload
        self.env = env
        self.silence = silence


@pytest.fixture
def service(
    request: pytest.FixtureRequest, stores: list[StoreSettings], redis_server: ServerProcess, tmp_path: Path
) -> Iterator[Service]:
    more = {
        "GRIDCAST_SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT),
        "GRIDCAST_GC_INTERVAL": "0",
        "GRIDCAST_MIN_FREE_SPACE": "0",
        "GRIDCAST_LIVE_INTAKE_FACTOR": "0",
        "GRIDCAST_BLOCK_CACHE_SIZE": "4194304",
    }
    with proxied_store(stores[0], redis_server.url, more) as (env, behind, proxy):
        assert proxy is not None
        upload = run_service("services.upload", tmp_path, env)  # it prepares the store
        with upload as preparing, run_service(request.param, tmp_path, behind) as held:
            yield Service(held, preparing, env, partial(setattr, proxy, "fault", Fault.BLACK_HOLE))
            proxy.fault = Fault.NONE


def of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("service", [f"services.{name}"], indirect=True, ids=[""])


def end(service: ServiceProcess) -> None:
    """Send SIGTERM: the process ends in time, as one that has ended in order, and says what it has not waited for."""
    began = time.monotonic()
    service.child.send_signal(signal.SIGTERM)
    assert service.child.wait(30), "it does not end"
    took = time.monotonic() - began
    print(f"ended after {took:.1f} s")
    assert took < LIMIT_SECONDS
    assert service.child.exit_summary().partition(":")[0].endswith(" ended with exit code 0")
    assert "Traceback" not in service.log
    if took > SHUTDOWN_TIMEOUT + EXIT_MARGIN_SECONDS:
        assert "did not wait any longer for the databases" in service.log


@contextlib.contextmanager
def sending(
    send: Callable[[Iterator[bytes]], httpx.Response], first: bytes, rest: bytes
) -> Iterator[Callable[[], None]]:
    """Send a body without an end, and run the block meanwhile; it calls the function to send the rest."""
    go_on, done = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield first
        assert go_on.wait(30)
        yield rest
        done.wait(60)

    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(status_of, partial(send, body()))
        try:
            yield go_on.set
        finally:
            go_on.set()
            done.set()
        assert status.result(60) in {0, 503}


@STORES
@of("upload")
def test_an_upload_service_in_the_middle_of_a_write(service: Service) -> None:
    """What its client was told is there for the next process, which goes on behind it."""
    tus = TusUpload(service.held)
    with tus.client:
        tus.create(length=len(DATA))
        assert tus.patch(0, DATA[:BATCH_SIZE]).status_code == 204
        put = partial(httpx.put, f"{service.held.url}/file/stream?filename=put", timeout=60)
        with sending(lambda body: put(content=body), DATA[:BATCH_SIZE], DATA[BATCH_SIZE:]) as send_rest:
            service.silence()
            send_rest()
            end(service.held)
    again = TusUpload(service.upload)
    again.path = tus.path
    with again.client:
        assert again.offset() == BATCH_SIZE
        assert again.patch(BATCH_SIZE, DATA[BATCH_SIZE:]).status_code == 204


@STORES
@of("live")
def test_a_live_service_in_the_middle_of_a_stream(service: Service, tmp_path: Path) -> None:
    stream = make_stream(service.held)
    empty = stream.get()["bytes"]
    with sending(stream.post, init() + fragment(0, 2) + fragment(2, 2), fragment(4, 2)) as send_rest:
        eventually(lambda: stream.get()["bytes"] > empty, 10, "a fragment is stored")
        service.silence()
        send_rest()
        end(service.held)
    with run_service("services.live", tmp_path, service.env) as next_one:
        stream.url = next_one.url
        assert stream.end()["segments"] >= 1


@STORES
@of("stream")
def test_a_stream_service_in_the_middle_of_a_download(service: Service) -> None:
    httpx.put(f"{service.upload.url}/file/stream?filename=got", content=DATA, timeout=60).raise_for_status()
    with httpx.stream("GET", f"{service.held.url}/file/stream?filename=got", timeout=60) as answer:
        assert answer.status_code == 200
        service.silence()
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{service.held.url}/file?limit=1", timeout=0.5)
        end(service.held)


@pytest.mark.anyio
async def test_a_socket_service_with_clients_whose_redis_is_silent(redis_server: ServerProcess, tmp_path: Path) -> None:
    with run_fault_proxy(redis_server.port) as proxy:
        env = {
            "GRIDCAST_REDIS_URL": redis_server.url.replace(f":{redis_server.port}", f":{proxy.port}"),
            "GRIDCAST_SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT),
        }
        with run_service("services.socket", tmp_path, env) as socket:
            clients = [await WebSocketClient.connect(socket) for _ in range(3)]
            proxy.fault = Fault.BLACK_HOLE
            closed = [asyncio.create_task(client.wait_for_close_code(LIMIT_SECONDS)) for client in clients]
            await asyncio.to_thread(end, socket)
            assert await asyncio.gather(*closed) == [1012] * 3
