"""Revocations: refused within two seconds everywhere, bodies cut, sockets closed, and still refused after Redis was emptied."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, run_service
from tests.support.redis_commands import send_redis_commands
from tests.support.sizes import MIB
from tests.support.store_inspectors import StoreInspector
from tests.support.tokens import AUTH_ENV, authorized, bearer, token
from tests.support.waiting import eventually
from tests.support.websocket_client import WebSocketClient


@dataclass(frozen=True)
class Services:
    """All three services with authentication."""

    upload: ServiceProcess
    stream: ServiceProcess
    socket: ServiceProcess
    redis: ServerProcess

    def revoke(self, **what: str) -> httpx.Response:
        return httpx.post(f"{self.upload.url}/auth/revocations", json=what, headers=authorized("admin", "root"))

    def statuses(self, headers: dict[str, str]) -> list[int]:
        return [
            httpx.put(f"{self.upload.url}/files/r/x.txt", content=b"x", headers=headers).status_code,
            httpx.get(f"{self.stream.url}/file", headers=headers).status_code,
            httpx.get(f"{self.socket.url}/sockets", headers=headers).status_code,
        ]


@pytest.fixture(scope="module")
def services(
    tmp_path_factory: pytest.TempPathFactory, mongod: ServerProcess, redis_server: ServerProcess
) -> Iterator[Services]:
    logs: Path = tmp_path_factory.mktemp("revocations")
    env = storage_env(mongod, redis_server.url, "auth_revocations", **AUTH_ENV)
    with (
        run_service("services.upload", logs, env) as upload,
        run_service("services.stream", logs, env) as stream,
        run_service("services.socket", logs, env) as sockets,
    ):
        yield Services(upload, stream, sockets, redis_server)


def logged_status(service: ServiceProcess, path: str) -> int | None:
    """The status of the last request for a path in the access log."""
    lines = [json.loads(line) for line in service.log.splitlines() if line.startswith("{") and path in line]
    return next((line["status"] for line in reversed(lines) if "status" in line), None)


ALL = "read write sockets listen"


def test_a_token_and_a_subject_are_refused_everywhere_within_two_seconds(services: Services) -> None:
    lost, other = authorized(ALL, "alice", jti="lost"), authorized(ALL, "alice", jti="other")
    assert set(services.statuses(lost)) <= {200, 201}
    assert services.revoke(token_id="lost").status_code == 201
    eventually(lambda: services.statuses(lost) == [401, 401, 401], 2)
    assert set(services.statuses(other)) <= {200, 201}
    done = services.revoke(subject="alice")
    assert done.json()["until"] > time.time() + 86400
    eventually(lambda: services.statuses(other) == [401, 401, 401], 2)
    later = authorized(ALL, "alice", iat=int(time.time()) + 2)
    assert set(services.statuses(later)) <= {200, 201}
    assert set(services.statuses(authorized(ALL, "bob"))) <= {200, 201}


def test_they_outlive_redis(services: Services) -> None:
    headers = authorized(ALL, "carol")
    services.revoke(subject="carol")
    eventually(lambda: services.statuses(headers) == [401, 401, 401], 2)
    send_redis_commands(services.redis.port, "DEL gridcast:revocations")
    for _ in range(30):
        status = httpx.get(f"{services.socket.url}/sockets", headers=headers).status_code
        assert status in {401, 503}, "believed"
        time.sleep(0.1)  # samples a window of three seconds
    eventually(lambda: services.statuses(headers) == [401, 401, 401], 3)


def test_a_download_and_an_upload_are_cut(services: Services) -> None:
    size = 200 * MIB
    writer = authorized("read write", "dave")
    assert (
        httpx.put(
            f"{services.upload.url}/files/r/large.bin", content=bytes(size), headers=writer, timeout=60
        ).status_code
        == 201
    )
    ended: dict[str, float] = {}
    revoked = threading.Event()

    def download() -> None:
        received = 0
        try:
            with httpx.stream(
                "GET", f"{services.stream.url}/files/r/large.bin", headers=writer, timeout=30
            ) as response:
                for piece in response.iter_raw(65536):
                    received += len(piece)
                    if not revoked.is_set():  # afterwards it reads what was sent before
                        time.sleep(0.01)  # a client that would need half a minute
        except httpx.HTTPError:
            pass
        assert received < size
        ended["download"] = time.monotonic()

    def slow_body() -> Iterator[bytes]:
        while True:
            yield bytes(4096)
            time.sleep(0.05)  # likewise

    def upload() -> None:
        try:
            response = httpx.put(
                f"{services.upload.url}/files/r/slow.bin", content=slow_body(), headers=writer, timeout=30
            )
            assert response.status_code == 401
        except httpx.HTTPError:
            pass
        ended["upload"] = time.monotonic()

    threads = [threading.Thread(target=target, daemon=True) for target in (download, upload)]
    for thread in threads:
        thread.start()
    time.sleep(1)  # both are in the middle of their bodies
    assert ended == {}
    began = time.monotonic()
    services.revoke(subject="dave")
    # The upload by its server: httpx sees the response when it has sent its next piece.
    eventually(lambda: logged_status(services.upload, "/files/r/slow.bin") == 401, 2.5)
    revoked.set()  # at once, a fast client would have all of the file before the stream service hears of it
    for thread in threads:
        thread.join(10)
    assert set(ended) == {"download", "upload"}
    assert ended["download"] - began < 2.5
    assert httpx.get(f"{services.stream.url}/files/r/slow.bin", headers=authorized("read")).status_code == 404


def test_sockets_are_closed(services: Services) -> None:
    async def run() -> None:
        client = await WebSocketClient.connect(services.socket, headers=authorized("listen", "erin"))
        kept = await WebSocketClient.connect(services.socket, headers=authorized("listen", "frank"))
        began = time.monotonic()
        await asyncio.to_thread(services.revoke, subject="erin")
        assert await client.wait_for_close_code() == 1008
        assert client.connection.close_reason == "token revoked"
        assert time.monotonic() - began < 2.5
        await kept.assert_nothing_pending()
        kept.abort()

    asyncio.run(run())


@pytest.mark.parametrize(
    "body", [{}, {"subject": ""}, {"subject": "a", "token_id": "b"}, {"user": "a"}, {"subject": 7}, []]
)
def test_malformed_revocations(services: Services, body: object) -> None:
    url = f"{services.upload.url}/auth/revocations"
    assert httpx.post(url, json=body, headers=authorized("admin", "root")).status_code == 400
    assert httpx.post(url, json={"subject": "a"}, headers=authorized("write", "root")).status_code == 403
    assert httpx.post(url, json={"subject": "a"}, headers=bearer(token("x", "admin", exp=1))).status_code == 401


def test_without_authentication_it_is_stored(upload: ServiceProcess, inspector: StoreInspector) -> None:
    assert httpx.post(f"{upload.url}/auth/revocations", json={"subject": "a"}).status_code == 201
    assert inspector.list_revoked() == ["a"]
