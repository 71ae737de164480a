"""How connections end on our server, directly and through the gateway: responses arrive, truncation is visible."""

import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.processes import ServiceProcess, run_service
from tests.support.raw_sockets import receive_until_closed, receive_until_eof
from tests.support.scripted_upstream import open_connection, parse_statuses, send_raw
from tests.support.waiting import eventually

REPETITIONS = 40
SIZE = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def minimal_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with run_service("tests.support.small_service", tmp_path_factory.mktemp("small"), {}) as service:
        yield service
        assert "Traceback" not in service.log


@pytest.fixture(scope="module")
def gateway(minimal_service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    env = {f"GRIDCAST_{name}_URLS": minimal_service.url for name in ("UPLOAD", "STREAM", "SOCKET", "LIVE")}
    env["GRIDCAST_ALLOWED_HOSTS"] = "*"  # a host of the greatest length is none of our names
    with run_service("gateway", tmp_path_factory.mktemp("gateway"), env) as gateway:
        yield gateway
        assert "Traceback" not in gateway.log


@pytest.fixture(params=["straight", "through the gateway"])
def port(request: pytest.FixtureRequest, minimal_service: ServiceProcess, gateway: ServiceProcess) -> int:
    return minimal_service.port if request.param == "straight" else gateway.port


def test_early_rejection_arrives_while_the_client_keeps_sending(port: int) -> None:
    """A server that closes with unread bytes resets the connection, and the reset destroys the response that is being sent."""
    head = b"PUT /file/stream?filename=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % SIZE
    for _ in range(REPETITIONS):
        with open_connection(port) as client:
            sending = threading.Thread(target=send_ignoring_errors, args=(client, head + b"a" * SIZE))
            sending.start()
            assert parse_statuses(receive_until_closed(client)) == [409]
            client.close()
            sending.join()


def send_ignoring_errors(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.sendall(data)


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_truncated_response_resets_the_connection(port: int, version: bytes) -> None:
    with open_connection(port) as client:
        client.sendall(b"GET /file?half HTTP/" + version + b"\r\nHost: localhost\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(ConnectionResetError):
            receive_until_eof(client)


def test_keep_alive_connection_stays_open(port: int) -> None:
    with open_connection(port) as client:
        for _ in range(50):
            client.sendall(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while not received.endswith(b"ok"):
                received += client.recv(65536)


def test_empty_lines_before_a_request_are_ignored(port: int) -> None:
    with open_connection(port) as client:
        client.sendall(b"\r\n\r\nGET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_body_after_an_early_response_is_not_parsed_as_a_request(port: int) -> None:
    """A response that did not wait for the body of its request: the body is discarded, the next request is served."""
    inner = b"GET /file?inner HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with open_connection(port) as client:
        client.sendall(b"GET /file HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner)
        client.sendall(b"GET /file HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert parse_statuses(receive_until_closed(client)) == [200, 200]


GET_REQUEST = b"GET /file?slow HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST_LINE = b"POST /file/upload?slow HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (GET_REQUEST, [200]),
        (GET_REQUEST.replace(b"?slow", b""), [200]),
        (GET_REQUEST.replace(b"1.1", b"1.0"), [200]),
        (GET_REQUEST * 3, [200] * 3),
        (POST_LINE + b"Content-Length: 3\r\n\r\nabc", [200]),
        (POST_LINE + b"Content-Length: 200000\r\n\r\n" + b"a" * 200_000, [200]),
        (POST_LINE + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", [200]),
        (GET_REQUEST + b"nonsense\r\n\r\n", [200, 400]),
        (GET_REQUEST + b"GET /fi", [200]),
        (GET_REQUEST + POST_LINE + b"Content-Length: 3\r\n\r\nab", [200]),
        (b"GET /fi", []),
        (POST_LINE + b"Content-Length: 3\r\n\r\nab", []),
        (POST_LINE + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", []),
        (b"", []),
    ],
)
def test_half_closed_client_gets_the_responses_to_its_complete_requests(
    port: int, sent: bytes, statuses: list[int]
) -> None:
    with open_connection(port) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(5)
        received = receive_until_closed(client)
    assert (parse_statuses(received) if received else []) == statuses


def test_a_head_within_the_limits_of_the_gateway_is_within_those_of_a_service(gateway: ServiceProcess) -> None:
    """The gateway adds fields, and the host of an absolute form, which it sends twice."""
    line = (
        b"GET http://"
        + b"h" * 253
        + b":65535/file?a="
        + b"b" * 7900
        + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    )
    for fields in (b"X: a\r\n" * 98, b"X: " + b"a" * 32_700 + b"\r\n", b"X: \xe9\xff" + b"a" * 9000 + b"\r\n"):
        assert parse_statuses(send_raw(gateway.port, line + fields + b"\r\n")) == [200]
    assert parse_statuses(send_raw(gateway.port, line + b"X: a\r\n" * 99 + b"\r\n")) == [431]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /file HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /file RTSP/1.0\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET /file HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 120 + b"\r\n", 431),
        (b"GET /file HTTP/1.1\r\nHost: localhost\r\nExpect: wonders\r\n\r\n", 417),
        (b"POST /file/upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
        (b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"nonsense\r\n\r\n", 400),
        (GET_REQUEST + GET_REQUEST.replace(b"?slow", b"") * 199, 429),  # the first one holds up those behind it
        (b"POST /ws HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
    ],
)
def test_a_refusal_of_the_server_has_an_id_which_is_in_the_log(
    gateway: ServiceProcess, sent: bytes, status: int
) -> None:
    received = send_raw(gateway.port, sent, 30)
    assert parse_statuses(received)[-1] == status
    head, _, body = received[received.rindex(b"HTTP/1.1 %d " % status) :].partition(b"\r\n\r\n")
    request_id = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])[b"x-request-id"].decode()

    def refusals() -> list[dict[str, object]]:
        lines = [json.loads(line) for line in gateway.log.splitlines()]
        return [
            line for line in lines if line.get("request_id") == request_id and line["message"] == "request rejected"
        ]

    (line,) = eventually(refusals, 5)
    assert (line["client"], line["status"]) == ("127.0.0.1", status)
    assert line["reason"] == json.loads(body)["detail"]


def test_a_fault_in_a_body_has_the_id_of_its_request(gateway: ServiceProcess) -> None:
    raw = b"POST /file/upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    received = send_raw(gateway.port, raw + b"1\r\na\r\n-1\r\n")
    request_id = re.search(rb"x-request-id: (\S+)", received)
    assert request_id is not None

    def messages() -> set[str]:
        lines = [json.loads(line) for line in gateway.log.splitlines()]
        found = {line["message"] for line in lines if line.get("request_id") == request_id[1].decode()}
        return found if len(found) > 1 else set()

    assert eventually(messages, 5) == {"request", "request rejected"}
