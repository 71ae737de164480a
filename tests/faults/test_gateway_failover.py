"""Real services behind a real gateway, one replica of each killed or stopped under load: clients see no failure."""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, StartService
from tests.support.raw_sockets import WEBSOCKET_HANDSHAKE
from tests.support.scripted_upstream import open_connection, send_request
from tests.support.waiting import eventually

FILE = "/file/stream?filename=a.bin"
BODY = bytes(range(256)) * 40
"""So small that a response is sent whole or not at all."""


@pytest.fixture
def env(mongod: ServerProcess, redis_url: str, database_name: str) -> dict[str, str]:
    return storage_env(mongod, redis_url, database_name)


def replica_urls_env(**services: list[ServiceProcess]) -> dict[str, str]:
    return {f"GRIDCAST_{name.upper()}_URLS": ",".join(one.url for one in of) for name, of in services.items()}


class RequestLoad:
    """Clients that send requests in a loop. `failed`: responses that were not as expected."""

    def __init__(self) -> None:
        self.served: Counter[str] = Counter()
        self.failed: list[str] = []
        self._stop_requested = threading.Event()
        self._threads: list[threading.Thread] = []

    def add_user(self, name: str, once: Callable[[], object]) -> None:
        def run() -> None:
            while not self._stop_requested.is_set():
                try:
                    fine, said = once(), ""
                except Exception as error:  # noqa: BLE001 - whatever goes wrong is a failed request
                    fine, said = False, repr(error)
                self.served[name] += 1
                if fine is not True:
                    self.failed.append(f"{name}: {fine} {said}")
                time.sleep(0.01)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def stop(self) -> None:
        self._stop_requested.set()
        for user in self._threads:
            user.join(30)


@pytest.fixture
def request_load() -> Iterator[RequestLoad]:
    load = RequestLoad()
    yield load
    load.stop()


def count_answers_of(gateway: ServiceProcess, replica: ServiceProcess) -> int:
    """The number of its log lines that name that replica as the upstream. Tunnels are logged at their end."""
    return gateway.log.count(f'"upstream_addr": "{replica.url}"')


def test_one_of_two_gateways_is_killed_and_restarted(
    start_service: StartService, env: dict[str, str], request_load: RequestLoad
) -> None:
    """No safe request and no handshake fails, and the killed replicas get requests within ten seconds of their return."""
    upload = start_service("services.upload", ready=False, **env)
    streams = [start_service("services.stream", ready=False, **env) for _ in range(2)]
    sockets = [start_service("services.socket", ready=False, **env) for _ in range(2)]
    eventually(lambda: all(one.is_ready() for one in (upload, *streams, *sockets)), 30)
    gateway = start_service(
        "gateway", **replica_urls_env(upload=[upload], stream=streams, socket=sockets, live=[upload])
    )
    assert send_request(gateway.port, "PUT", FILE, BODY).status == 201

    def open_socket() -> bool | bytes:
        with open_connection(gateway.port) as client:
            client.sendall(WEBSOCKET_HANDSHAKE)
            received = b""
            while b'"sid"' not in received and (data := client.recv(65536)):
                received += data
            return (received.startswith(b"HTTP/1.1 101 ") and b'"sid"' in received) or received

    request_load.add_user("file", lambda: send_request(gateway.port, "GET", FILE).body == BODY)
    request_load.add_user("info", lambda: send_request(gateway.port, "GET", "/file/info?filename=a.bin").status == 200)
    request_load.add_user("head", lambda: send_request(gateway.port, "HEAD", FILE).status == 200)
    request_load.add_user("sockets", lambda: send_request(gateway.port, "GET", "/sockets").status == 200)
    request_load.add_user("handshake", open_socket)
    killed = (streams[0], sockets[0])
    eventually(lambda: all(count_answers_of(gateway, one) > 5 for one in (*streams, *sockets)), 10, "all are asked")
    for one in killed:
        os.kill(one.pid, signal.SIGKILL)
    time.sleep(2.5)
    before = request_load.served.copy()
    eventually(lambda: all(request_load.served[name] > before[name] + 3 for name in before), 10, "the others go on")
    kinds = ("services.stream", "services.socket")
    returned = [start_service(kind, port=one.port, **env) for kind, one in zip(kinds, killed, strict=True)]
    began, lines = time.monotonic(), [count_answers_of(gateway, one) for one in returned]
    for one, count in zip(returned, lines, strict=True):
        eventually(lambda one=one, count=count: count_answers_of(gateway, one) > count, 10, "it is asked again")  # type: ignore[misc]
    assert time.monotonic() - began < 10
    request_load.stop()
    assert request_load.failed == []
    assert min(request_load.served.values()) > 20
    assert '"upstream ejected"' in gateway.log


def test_an_upload_replica_that_is_stopping_gets_no_request(
    start_service: StartService, env: dict[str, str], request_load: RequestLoad
) -> None:
    """It finishes its active upload. The gateway's other connections to it are closed, so no request reaches it while it stops."""
    uploads = [start_service("services.upload", GRIDCAST_SHUTDOWN_TIMEOUT="15", **env) for _ in range(2)]
    gateway = start_service("gateway", ready=False, **replica_urls_env(upload=uploads))
    eventually(lambda: "running on" in gateway.log, 10)
    numbers = iter(range(10_000))

    def put() -> bool | int:
        status = send_request(gateway.port, "PUT", f"/file/stream?filename={next(numbers)}", b"a").status
        return status == 201 or status

    with contextlib.ExitStack() as slow:
        long = [slow.enter_context(open_connection(gateway.port)) for _ in range(2)]
        for number, client in enumerate(long):
            head = f"PUT /file/stream?filename=long{number} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4096\r\n\r\n"
            client.sendall(head.encode() + bytes(2048))
        for _ in range(4):
            request_load.add_user("put", put)
        eventually(lambda: all(count_answers_of(gateway, one) > 5 for one in uploads), 10, "both are asked")
        stopping = threading.Thread(target=uploads[0].terminate)
        stopping.start()
        before = request_load.served["put"]
        eventually(lambda: request_load.served["put"] > before + 40, 20)
        request_load.stop()
        assert stopping.is_alive(), "it still has an upload"
        for client in long:
            client.sendall(bytes(2048))
        assert all(client.recv(65536).startswith(b"HTTP/1.1 201 ") for client in long)
        stopping.join(20)
    assert request_load.failed == []
