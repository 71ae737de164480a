"""Real services behind a real gateway, one replica of each killed or stopped under load: who asks does not notice."""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.support.databases import Server
from tests.support.media_library import environment
from tests.support.processes import Service, Start
from tests.support.scripted_upstream import HANDSHAKE, ask, connect
from tests.support.waiting import eventually

FILE = "/file/stream?filename=a.bin"
BODY = bytes(range(256)) * 40
"""So small that an answer is never cut in the middle."""


@pytest.fixture
def env(mongod: Server, redis_url: str, database: str) -> dict[str, str]:
    return environment(mongod, redis_url, database)


def urls(**services: list[Service]) -> dict[str, str]:
    return {f"GRIDCAST_{name.upper()}_URLS": ",".join(one.url for one in of) for name, of in services.items()}


class Load:
    """Users who ask again and again. `failed`: what was not answered as it should be."""

    def __init__(self) -> None:
        self.served: Counter[str] = Counter()
        self.failed: list[str] = []
        self._over = threading.Event()
        self._users: list[threading.Thread] = []

    def user(self, name: str, once: Callable[[], object]) -> None:
        def run() -> None:
            while not self._over.is_set():
                try:
                    fine, said = once(), ""
                except Exception as error:  # noqa: BLE001 - whatever goes wrong is a failed request
                    fine, said = False, repr(error)
                self.served[name] += 1
                if fine is not True:
                    self.failed.append(f"{name}: {fine} {said}")
                time.sleep(0.01)

        self._users.append(threading.Thread(target=run))
        self._users[-1].start()

    def end(self) -> None:
        self._over.set()
        for user in self._users:
            user.join(30)


@pytest.fixture
def load() -> Iterator[Load]:
    load = Load()
    yield load
    load.end()


def answered_by(gateway: Service, replica: Service) -> int:
    """How many lines of its log name that replica as the one that answered. Tunnels are logged at their end."""
    return gateway.log.count(f'"upstream_addr": "{replica.url}"')


def test_one_of_two_is_killed_and_returns(start_service: Start, env: dict[str, str], load: Load) -> None:
    """No safe request fails, no handshake either, and the killed ones are back within ten seconds of their return."""
    upload = start_service("services.upload", ready=False, **env)
    streams = [start_service("services.stream", ready=False, **env) for _ in range(2)]
    sockets = [start_service("services.socket", ready=False, **env) for _ in range(2)]
    eventually(lambda: all(one.is_ready() for one in (upload, *streams, *sockets)), 30)
    gateway = start_service("gateway", **urls(upload=[upload], stream=streams, socket=sockets))
    assert ask(gateway.port, "PUT", FILE, BODY).status == 201

    def open_socket() -> bool | bytes:
        with connect(gateway.port) as client:
            client.sendall(HANDSHAKE)
            received = b""
            while b'"sid"' not in received and (data := client.recv(65536)):
                received += data
            return (received.startswith(b"HTTP/1.1 101 ") and b'"sid"' in received) or received

    load.user("file", lambda: ask(gateway.port, "GET", FILE).body == BODY)
    load.user("info", lambda: ask(gateway.port, "GET", "/file/info?filename=a.bin").status == 200)
    load.user("head", lambda: ask(gateway.port, "HEAD", FILE).status == 200)
    load.user("sockets", lambda: ask(gateway.port, "GET", "/sockets").status == 200)
    load.user("handshake", open_socket)
    killed = (streams[0], sockets[0])
    eventually(lambda: all(answered_by(gateway, one) > 5 for one in (*streams, *sockets)), 10, "all are asked")
    for one in killed:
        os.kill(one.pid, signal.SIGKILL)
    time.sleep(2.5)
    before = load.served.copy()
    eventually(lambda: all(load.served[name] > before[name] + 3 for name in before), 10, "the others go on")
    kinds = ("services.stream", "services.socket")
    returned = [start_service(kind, port=one.port, **env) for kind, one in zip(kinds, killed, strict=True)]
    began, lines = time.monotonic(), [answered_by(gateway, one) for one in returned]
    for one, count in zip(returned, lines, strict=True):
        eventually(lambda one=one, count=count: answered_by(gateway, one) > count, 10, "it is asked again")  # type: ignore[misc]
    assert time.monotonic() - began < 10
    load.end()
    assert load.failed == []
    assert min(load.served.values()) > 20
    assert '"upstream ejected"' in gateway.log


def test_an_upload_replica_that_is_stopping_gets_no_request(
    start_service: Start, env: dict[str, str], load: Load
) -> None:
    """It finishes the upload that it has. The gateway's other connections to it are closed, so nobody hears that it stops."""
    uploads = [start_service("services.upload", GRIDCAST_SHUTDOWN_TIMEOUT="15", **env) for _ in range(2)]
    gateway = start_service("gateway", ready=False, **urls(upload=uploads))
    eventually(lambda: "running on" in gateway.log, 10)
    numbers = iter(range(10_000))

    def put() -> bool | int:
        status = ask(gateway.port, "PUT", f"/file/stream?filename={next(numbers)}", b"a").status
        return status == 201 or status

    with contextlib.ExitStack() as slow:
        long = [slow.enter_context(connect(gateway.port)) for _ in range(2)]
        for number, client in enumerate(long):
            head = f"PUT /file/stream?filename=long{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 4096\r\n\r\n"
            client.sendall(head.encode() + bytes(2048))
        for _ in range(4):
            load.user("put", put)
        eventually(lambda: all(answered_by(gateway, one) > 5 for one in uploads), 10, "both are asked")
        stopping = threading.Thread(target=uploads[0].stop)
        stopping.start()
        before = load.served["put"]
        eventually(lambda: load.served["put"] > before + 40, 20)
        load.end()
        assert stopping.is_alive(), "it still has an upload"
        for client in long:
            client.sendall(bytes(2048))
        assert all(client.recv(65536).startswith(b"HTTP/1.1 201 ") for client in long)
        stopping.join(20)
    assert load.failed == []
