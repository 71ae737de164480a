"""Clients that close behind the last byte of a request: what has arrived as a whole is carried out, straight and by the gateway."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote, urlsplit

import httpx
import pytest

from tests.support.fragmented_mp4 import fragment, init
from tests.support.live_client import make_stream
from tests.support.processes import ServiceProcess, run_service
from tests.support.raw_sockets import close_with_reset
from tests.support.scripted_upstream import open_connection
from tests.support.waiting import eventually

OBJECT = init() + fragment(0, 2) + fragment(2, 2)
FILE = os.urandom(50_000)
"""Less than the server reads ahead, so that all of it has arrived when the client goes."""


@dataclass
class Services:
    live: ServiceProcess
    upload: ServiceProcess
    gateway: ServiceProcess


@pytest.fixture(scope="module")
def services(
    live: ServiceProcess, live_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    logs = tmp_path_factory.mktemp("services")
    with run_service("services.upload", logs, live_env) as upload:
        urls = {"UPLOAD": upload.url, "LIVE": live.url, "STREAM": upload.url, "SOCKET": upload.url}
        env = {f"GRIDCAST_{name}_URLS": url for name, url in urls.items()}
        with run_service("gateway", logs, env) as gateway:
            yield Services(live, upload, gateway)
            for service in (live, upload, gateway):
                assert "Traceback" not in service.log


@contextmanager
def frozen(*services: ServiceProcess) -> Iterator[None]:
    """Stop processes for a moment: what is sent meanwhile, and that its sender has gone, they find together."""
    for service in services:
        os.kill(service.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for service in services:
            os.kill(service.pid, signal.SIGCONT)


def framed(path: str, data: bytes, coding: str) -> bytes:
    """A whole PUT, as `curl -T` sends it or as ffmpeg does."""
    if coding == "chunked":
        fields, data = "Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)
    else:
        fields = f"Content-Length: {len(data)}"
    return f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n\r\n".encode() + data


def leave(client: socket.socket, how: str) -> None:
    """A muxer that does not read the answer closes with a FIN; what a proxy closes is often reset."""
    if how == "reset":
        close_with_reset(client)
    else:
        client.close()


LEAVING = pytest.mark.parametrize("how", ["close", "reset"])
WAYS = pytest.mark.parametrize("through", ["straight", "gateway"])
CODINGS = pytest.mark.parametrize("coding", ["length", "chunked"])


@LEAVING
@WAYS
@CODINGS
def test_an_object_of_a_muxer_that_closes_behind_it_is_taken(
    services: Services, how: str, through: str, coding: str
) -> None:
    client = make_stream(services.live)
    service = services.live if through == "straight" else services.gateway
    with open_connection(service.port) as connection, frozen(services.live, service):
        connection.sendall(framed(f"{urlsplit(client.made['objects']).path}seg0.m4s", OBJECT, coding))
        leave(connection, how)
    eventually(lambda: client.get()["duration"] == 4, 10, "the object is stored")


@LEAVING
@WAYS
@CODINGS
def test_a_file_whose_sender_closes_behind_it_is_stored(
    services: Services, how: str, through: str, coding: str
) -> None:
    name = f"left {how} {through} {coding}.bin"
    service = services.upload if through == "straight" else services.gateway
    with open_connection(service.port) as connection, frozen(services.upload, service):
        connection.sendall(framed(f"/file/stream?filename={quote(name)}", FILE, coding))
        leave(connection, how)
    query = {"folder": "", "filename": name}
    eventually(partial(is_stored, services.upload, query), 10, "the file is there")


def is_stored(upload: ServiceProcess, query: dict[str, str]) -> bool:
    """Whether there is a file of that name: it may not be made again."""
    answer = httpx.put(
        f"{upload.url}/file/stream", params=query, content=b"x", headers={"if-none-match": "*"}, timeout=10
    )
    assert answer.status_code == 412, "the file was lost"
    return True


def test_what_is_not_complete_is_not_stored(services: Services) -> None:
    client = make_stream(services.live)
    with open_connection(services.live.port) as connection, frozen(services.live):
        connection.sendall(framed(f"{client.made['objects']}seg0.m4s", OBJECT, "length")[:-1])
        close_with_reset(connection)
    eventually(
        lambda: "seg0.m4s" in services.live.log or services.live.log.count("499") > 0, 10, "the request has ended"
    )
    described = client.get()
    assert (described["state"], described["segments"]) == ("waiting", 0)
