"""A service process that stands still (SIGSTOP), behind a real gateway.

Its kernel accepts connections, and nothing answers.
"""

import concurrent.futures
import os
import signal
import time

import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, StartService
from tests.support.raw_sockets import WEBSOCKET_HANDSHAKE
from tests.support.scripted_upstream import open_connection, send_raw, send_request
from tests.support.waiting import eventually

FILE = "/file/stream?filename=a.bin"
BODY = bytes(range(256)) * 40
ELSEWHERE_SECONDS = 9.0
"""Two health checks of 1.5 s that begin at most 2 s apart, and the interval of the monitor; doubled for a busy machine."""
ENDED_SECONDS = 20.0
"""FROZEN_AFTER_SECONDS, and the check that finds it out; below the default interval of WebSocket pings."""


@pytest.fixture
def env(mongod: ServerProcess, redis_url: str, database_name: str) -> dict[str, str]:
    return storage_env(mongod, redis_url, database_name)


def urls_env(**services: list[ServiceProcess]) -> dict[str, str]:
    return {f"GRIDCAST_{name.upper()}_URLS": ",".join(one.url for one in of) for name, of in services.items()}


def test_waiting_request_without_a_body_is_answered_by_another_replica(
    start_service: StartService, env: dict[str, str]
) -> None:
    """Neither a 504 nor 35 s of waiting. The next requests do not go to the frozen replica; once it continues, they do again."""
    upload = start_service("services.upload", **env)
    streams = [start_service("services.stream", **env) for _ in range(2)]
    gateway = start_service("gateway", ready=False, **urls_env(upload=[upload], stream=streams))
    eventually(lambda: "running on" in gateway.log, 10)
    assert send_request(gateway.port, "PUT", FILE, BODY).status == 201
    frozen = streams[0]
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: send_request(gateway.port, "GET", FILE), range(8)))
        assert [(answer.status, answer.body) for answer in answers] == [(200, BODY)] * 8
        assert time.monotonic() - began < ELSEWHERE_SECONDS
        began = time.monotonic()
        assert {send_request(gateway.port, "HEAD", FILE).status for _ in range(20)} == {200}
        assert time.monotonic() - began < 2.0
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    returned = f'"upstream_addr": "{frozen.url}"'
    before = gateway.log.count(returned)

    def is_asked_again() -> bool:
        assert send_request(gateway.port, "GET", FILE).status == 200
        return gateway.log.count(returned) > before + 2

    eventually(is_asked_again, 15, "it gets requests again")


def test_waiting_request_of_a_single_replica_is_not_retried_and_ends(
    start_service: StartService, env: dict[str, str]
) -> None:
    """There is no other: a pause shorter than FROZEN_AFTER_SECONDS costs time only, a longer one is a 504."""
    upload = start_service("services.upload", **env)
    stream = start_service("services.stream", **env)
    gateway = start_service("gateway", ready=False, **urls_env(upload=[upload], stream=[stream]))
    eventually(lambda: "running on" in gateway.log, 10)
    assert send_request(gateway.port, "PUT", FILE, BODY).status == 201
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        os.kill(stream.pid, signal.SIGSTOP)
        try:
            waiting = pool.submit(send_request, gateway.port, "GET", FILE)
            eventually(lambda: "the health checks get no response" in gateway.log, 12)
        finally:
            os.kill(stream.pid, signal.SIGCONT)
        assert waiting.result(10).body == BODY
        eventually(lambda: send_request(gateway.port, "GET", FILE).status == 200, 10)
        os.kill(stream.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            answer = send_raw(
                gateway.port, f"GET {FILE} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode(), 40
            )
            assert answer.startswith(b"HTTP/1.1 504 ")
            assert b"does not respond" in answer
            assert time.monotonic() - began < ENDED_SECONDS
        finally:
            os.kill(stream.pid, signal.SIGCONT)


def test_upload_and_tunnel_of_frozen_services_end(start_service: StartService, env: dict[str, str]) -> None:
    """The upload gets a 504 and stores nothing. The tunnel's client sees its connection close before a ping would be due."""
    upload, socket = start_service("services.upload", **env), start_service("services.socket", **env)
    gateway = start_service("gateway", ready=False, **urls_env(upload=[upload], socket=[socket]))
    eventually(lambda: "running on" in gateway.log, 10)
    with open_connection(gateway.port) as sending, open_connection(gateway.port) as listening:
        listening.sendall(WEBSOCKET_HANDSHAKE)
        greeting = b""
        while b'"sid"' not in greeting:
            greeting += listening.recv(65536)
        sending.sendall(
            f"PUT {FILE} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4000000\r\n\r\n".encode() + bytes(100_000)
        )
        for service in (upload, socket):
            os.kill(service.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            sending.settimeout(ENDED_SECONDS)
            listening.settimeout(ENDED_SECONDS)
            while data := listening.recv(65536):
                assert data
            answer = sending.recv(65536)
            assert time.monotonic() - began < ENDED_SECONDS
        finally:
            for service in (upload, socket):
                os.kill(service.pid, signal.SIGCONT)
    assert answer.startswith(b"HTTP/1.1 504 "), answer
    assert b"does not respond" in answer
    assert send_request(gateway.port, "PUT", FILE, BODY).status == 201


def test_handshake_is_sent_to_another_replica(start_service: StartService, env: dict[str, str]) -> None:
    """A WebSocket client is not told 504 because one of two replicas stands still."""
    sockets = [start_service("services.socket", **env) for _ in range(2)]
    gateway = start_service("gateway", ready=False, **urls_env(socket=sockets))
    eventually(lambda: "running on" in gateway.log, 10)
    os.kill(sockets[0].pid, signal.SIGSTOP)
    try:
        for _ in range(4):
            with open_connection(gateway.port) as client:
                client.settimeout(ELSEWHERE_SECONDS)
                client.sendall(WEBSOCKET_HANDSHAKE)
                assert client.recv(12) == b"HTTP/1.1 101"
    finally:
        os.kill(sockets[0].pid, signal.SIGCONT)
