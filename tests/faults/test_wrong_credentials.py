"""Case 104: a wrong password for MongoDB or Redis. Not ready, with the reason, and no secret in any log or response."""

import socket
import time

import httpx
import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, StartService
from tests.support.waiting import eventually

SECRET = "x7-hidden-word"
UNKNOWN_CREDENTIALS = f"gridcast:{SECRET}@"
LOG_SETTLE_SECONDS = 3.0
"""Seconds in which a service has retried more than once."""


@pytest.fixture
def wrong_password_redis_url(dedicated_redis: ServerProcess) -> str:
    """A Redis whose password differs from that of its clients."""
    with socket.create_connection(("127.0.0.1", dedicated_redis.port), timeout=5.0) as connection:
        connection.sendall(b"CONFIG SET requirepass another\r\n")
        assert connection.recv(64) == b"+OK\r\n"
    return dedicated_redis.url.replace("redis://", f"redis://:{SECRET}@")


def is_alive(service: ServiceProcess) -> bool:
    return httpx.get(f"{service.url}/livez", timeout=10).status_code == 200


def assert_secret_not_leaked(services: list[ServiceProcess], *answers: httpx.Response) -> None:
    began = time.monotonic()
    while time.monotonic() - began < LOG_SETTLE_SECONDS:
        for service in services:
            assert SECRET not in httpx.get(f"{service.url}/readyz", timeout=10).text
        time.sleep(0.1)
    for service in services:
        assert SECRET not in service.log
    for answer in answers:
        assert SECRET not in answer.text


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
@pytest.mark.parametrize("module", ["services.upload", "services.stream"])
def test_mongodb_rejects_the_credentials(
    start_service: StartService, mongod: ServerProcess, redis_url: str, module: str, driver: str
) -> None:
    service = start_service(
        module,
        ready=False,
        GRIDCAST_MONGODB_URI=mongod.url.replace("mongodb://", f"mongodb://{UNKNOWN_CREDENTIALS}"),
        GRIDCAST_REDIS_URL=redis_url,
        GRIDCAST_MONGODB_DRIVER=driver,
        GRIDCAST_LOG_LEVEL="debug",
    )
    eventually(lambda: is_alive(service), 20)
    ready = httpx.get(f"{service.url}/readyz", timeout=10)
    assert ready.status_code == 503
    put = httpx.put(f"{service.url}/file/stream?filename=a", content=b"x", timeout=15)
    get = httpx.get(f"{service.url}/file/stream?filename=a", timeout=15)
    asked = put if module == "services.upload" else get
    assert asked.status_code == 503, asked.text
    assert int(asked.headers["retry-after"]) > 0
    assert_secret_not_leaked([service], ready, put, get)


def test_redis_rejects_the_credentials(
    start_service: StartService, mongod: ServerProcess, database_name: str, wrong_password_redis_url: str
) -> None:
    """No pushes and no sockets; files are written and read as when Redis is unavailable."""
    env = storage_env(mongod, wrong_password_redis_url, database_name) | {"GRIDCAST_LOG_LEVEL": "debug"}
    sockets = start_service("services.socket", ready=False, **env)
    upload, stream = start_service("services.upload", **env), start_service("services.stream", **env)
    eventually(lambda: is_alive(sockets), 20)
    ready = httpx.get(f"{sockets.url}/readyz", timeout=10)
    push = httpx.post(f"{sockets.url}/sockets/messages", json={"type": "t"}, timeout=10)
    assert (ready.status_code, push.status_code) == (503, 503)
    assert int(push.headers["retry-after"]) > 0
    stored = httpx.put(f"{upload.url}/file/stream?filename=a", content=b"x", timeout=10)
    assert stored.status_code == 201
    assert httpx.get(f"{stream.url}/file/stream?filename=a", timeout=10).content == b"x"
    assert_secret_not_leaked([sockets, upload, stream], ready, push, stored)
    for service in (sockets, upload, stream):
        assert "Traceback" not in service.log
