"""RFC 6455 in raw bytes: what a client may do wrong; the server closes with the right code and keeps running."""

import base64
import contextlib
import json
import os
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.process_stats import cpu_seconds, resident_memory
from tests.support.processes import ServiceProcess
from tests.support.redis_commands import send_redis_commands
from tests.support.waiting import eventually
from tests.support.websocket_client import SocketReplicas

TIMEOUT = 8.0
WEBSOCKET_KEY = base64.b64encode(b"0123456789abcdef").decode()
TEXT, BINARY, CONT, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA


def encode_frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True, length: int | None = None
) -> bytes:
    """One frame as a client sends it, with the given faults. `length` overrides the length field."""
    said = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    mark = 0x80 if masked else 0
    if said < 126:
        head += bytes([mark | said])
    elif said < 65536:
        head += bytes([mark | 126]) + struct.pack("!H", said)
    else:
        head += bytes([mark | 127]) + struct.pack("!Q", said)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


class RawWebSocket:
    """A raw TCP connection, past its handshake and first frame."""

    def __init__(self, port: int, path: str = "/ws", room: int = 0, **changed: str | None) -> None:
        self.socket = socket.socket()
        if room:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            # Without small segments the other side's kernel takes 2.6 MB for a client that reads nothing.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(("127.0.0.1", port))
        self.buffer = b""
        self.socket.sendall(handshake_request(path, **changed))
        assert self.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        opcode, first = self.receive_frame()
        assert (opcode, first[:8]) == (TEXT, b'{"sid":"')
        self.first_frame = json.loads(first)
        if "resume=" not in path:  # the events that it has missed come first
            opcode, self.first_ping = self.receive_frame()
            assert opcode == PING, "the server asks at once whether the client is there"

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            self.buffer += self.socket.recv(65536) or pytest.fail("closed")
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    def read_exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            got = self.socket.recv(65536)
            if not got:
                raise EOFError
            self.buffer += got
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def receive_frame(self) -> tuple[int, bytes]:
        """The next frame: its opcode and its payload. A server never masks (RFC 6455, 5.1)."""
        first, second = self.read_exactly(2)
        assert first & 0x70 == 0
        assert second & 0x80 == 0
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self.read_exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.read_exactly(8))
        return first & 0x0F, self.read_exactly(length)

    def send_frames(self, *frames: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(b"".join(frames))

    def receive_close_code(self) -> int:
        """The code of the server's close frame, after which the connection must end."""
        while True:
            opcode, payload = self.receive_frame()
            if opcode == CLOSE:
                break
            assert opcode in {TEXT, PONG, PING}
        self.send_frames(encode_frame(CLOSE, payload[:2]))
        self.socket.settimeout(TIMEOUT)
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(65536):
                pass
        return int(struct.unpack("!H", payload[:2])[0]) if payload else 1005

    def receive_text(self) -> bytes:
        while True:
            opcode, payload = self.receive_frame()
            if opcode == TEXT:
                return payload


def handshake_request(path: str = "/ws", **changed: str | None) -> bytes:
    fields: dict[str, str | None] = {
        "host": "127.0.0.1",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": WEBSOCKET_KEY,
        "sec-websocket-version": "13",
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")


@pytest.fixture
def raw_websocket(single_replica: SocketReplicas) -> Iterator[RawWebSocket]:
    made = RawWebSocket(single_replica[0].port)
    yield made
    made.socket.close()
    assert httpx.get(f"{single_replica[0].url}/livez").status_code == 200
    assert "Traceback" not in single_replica[0].log


PONG_REPLY = b'{"pong":true}'
BIG = b"x" * 65536


VIOLATIONS = {
    "rsv1 without an extension": ([encode_frame(TEXT, b"a", rsv=4)], 1002),
    "rsv2": ([encode_frame(TEXT, b"a", rsv=2)], 1002),
    "rsv3 in a ping": ([encode_frame(PING, b"a", rsv=1)], 1002),
    "opcode 3": ([encode_frame(3, b"a")], 1002),
    "opcode 7": ([encode_frame(7, b"a")], 1002),
    "opcode 11": ([encode_frame(11, b"a")], 1002),
    "opcode 15": ([encode_frame(15, b"a")], 1002),
    "unmasked text": ([encode_frame(TEXT, b"a", masked=False)], 1002),
    "unmasked ping": ([encode_frame(PING, b"a", masked=False)], 1002),
    "unmasked close": ([encode_frame(CLOSE, b"\x03\xe8", masked=False)], 1002),
    "ping of 126 bytes": ([encode_frame(PING, b"x" * 126)], 1002),
    "pong of 126 bytes": ([encode_frame(PONG, b"x" * 126)], 1002),
    "close of 126 bytes": ([encode_frame(CLOSE, b"\x03\xe8" + b"x" * 124)], 1002),
    "fragmented ping": ([encode_frame(PING, b"a", fin=False), encode_frame(CONT, b"b")], 1002),
    "fragmented close": ([encode_frame(CLOSE, b"\x03\xe8", fin=False)], 1002),
    "continuation of nothing": ([encode_frame(CONT, b"a")], 1002),
    "continuation after the end": ([encode_frame(TEXT, b"a"), encode_frame(CONT, b"b")], 1002),
    "a text inside a text": ([encode_frame(TEXT, b"a", fin=False), encode_frame(TEXT, b"b")], 1002),
    "a binary inside a text": ([encode_frame(TEXT, b"a", fin=False), encode_frame(BINARY, b"b")], 1002),
    "close with one byte": ([encode_frame(CLOSE, b"\x03")], 1002),
    "close code 0": ([encode_frame(CLOSE, struct.pack("!H", 0))], 1002),
    "close code 999": ([encode_frame(CLOSE, struct.pack("!H", 999))], 1002),
    "close code 1004": ([encode_frame(CLOSE, struct.pack("!H", 1004))], 1002),
    "close code 1005": ([encode_frame(CLOSE, struct.pack("!H", 1005))], 1002),
    "close code 1006": ([encode_frame(CLOSE, struct.pack("!H", 1006))], 1002),
    "close code 1015": ([encode_frame(CLOSE, struct.pack("!H", 1015))], 1002),
    "close code 2999": ([encode_frame(CLOSE, struct.pack("!H", 2999))], 1002),
    "close code 5000": ([encode_frame(CLOSE, struct.pack("!H", 5000))], 1002),
    "a reason that is no UTF-8": ([encode_frame(CLOSE, struct.pack("!H", 1000) + b"\xff\xfe")], 1007),
    "text that is no UTF-8": ([encode_frame(TEXT, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80")], 1007),
    "text with a lone byte": ([encode_frame(TEXT, b"\xff")], 1007),
    "fragments that are no UTF-8": ([encode_frame(TEXT, b"\xce", fin=False), encode_frame(CONT, b"\xce")], 1007),
    "text past the limit": ([encode_frame(TEXT, BIG + b"x")], 1009),
    "fragments past the limit": ([encode_frame(TEXT, BIG, fin=False), encode_frame(CONT, b"x")], 1009),
    "a length of 2^63-1": ([encode_frame(TEXT, length=2**63 - 1)], 1009),
    "a length of 2^63": ([encode_frame(TEXT, length=2**63)], 1009),
    "17 MiB": ([encode_frame(BINARY, b"", length=17 * 1024**2), b"\x00" * 1024**2], 1009),
    "normal close": ([encode_frame(CLOSE, struct.pack("!H", 1000) + b"bye")], 1000),
    "close without a code": ([encode_frame(CLOSE)], 1005),
    "close with a code of their own": ([encode_frame(CLOSE, struct.pack("!H", 4321))], 4321),
    "going away": ([encode_frame(CLOSE, struct.pack("!H", 1001))], 1001),
}


@pytest.mark.parametrize(("frames", "code"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_protocol_violations_close_with_their_code(raw_websocket: RawWebSocket, frames: list[bytes], code: int) -> None:
    raw_websocket.send_frames(*frames)
    assert raw_websocket.receive_close_code() == code


@pytest.mark.parametrize(
    "frames",
    [
        [encode_frame(TEXT, b"ping")],
        [encode_frame(TEXT)],
        [encode_frame(BINARY, b"\x00\xff")],
        [encode_frame(TEXT, "é€😀".encode())],
        [encode_frame(TEXT, b"pi", fin=False), encode_frame(CONT, b"ng")],
        [encode_frame(TEXT, "é".encode()[:1], fin=False), encode_frame(CONT, "é".encode()[1:])],
        [encode_frame(TEXT, b"", fin=False), encode_frame(CONT, b"", fin=False), encode_frame(CONT)],
        [encode_frame(TEXT, b"a", fin=False), encode_frame(PING, b"between"), encode_frame(CONT, b"b")],
        [encode_frame(TEXT, b"x" * 65536)],
        [encode_frame(PONG, b"nobody asked")],
    ],
)
def test_valid_frames_are_accepted(raw_websocket: RawWebSocket, frames: list[bytes]) -> None:
    raw_websocket.send_frames(*frames, encode_frame(TEXT, b"?"))
    assert raw_websocket.receive_text() == PONG_REPLY
    raw_websocket.send_frames(encode_frame(CLOSE, struct.pack("!H", 1000)))
    assert raw_websocket.receive_close_code() == 1000


def test_handshake_and_frames_arrive_one_byte_at_a_time(raw_websocket: RawWebSocket) -> None:
    raw_websocket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in encode_frame(TEXT, b"ping") + encode_frame(PING, b"x"):
        raw_websocket.send_frames(bytes([byte]))
        time.sleep(0.001)
    assert raw_websocket.receive_text() == PONG_REPLY
    assert raw_websocket.receive_frame() == (PONG, b"x")


def test_pings_are_answered_with_their_bytes(raw_websocket: RawWebSocket) -> None:
    for payload in (b"", b"abc", b"\x00" * 125):
        raw_websocket.send_frames(encode_frame(PING, payload))
        assert raw_websocket.receive_frame() == (PONG, payload)


def test_200_000_one_byte_fragments_are_stopped_early(
    single_replica: SocketReplicas, raw_websocket: RawWebSocket
) -> None:
    flood = encode_frame(TEXT, b"x", fin=False) + encode_frame(CONT, b"x", fin=False) * 200_000
    before = cpu_seconds(single_replica[0].pid)
    raw_websocket.socket.settimeout(TIMEOUT)
    raw_websocket.send_frames(flood)
    assert raw_websocket.receive_close_code() == 1008
    assert cpu_seconds(single_replica[0].pid) - before < 0.5, "2 s of CPU where nobody counts"


@pytest.mark.long
def test_message_slower_than_30_s_is_rejected(raw_websocket: RawWebSocket) -> None:
    """The client is alive and answers pings; but single fragments do not make a message."""
    raw_websocket.send_frames(encode_frame(PONG, raw_websocket.first_ping))
    raw_websocket.send_frames(encode_frame(TEXT, b"a", fin=False), encode_frame(CONT, b"b", fin=False))
    raw_websocket.socket.settimeout(0.5)
    began = time.monotonic()
    while time.monotonic() - began < 31:
        with contextlib.suppress(TimeoutError):
            opcode, payload = raw_websocket.receive_frame()
            assert opcode == PING
            raw_websocket.send_frames(encode_frame(PONG, payload))
    raw_websocket.socket.settimeout(TIMEOUT)
    raw_websocket.send_frames(encode_frame(CONT, b"c"))
    assert raw_websocket.receive_close_code() == 1008


def test_ping_flood_is_stopped(raw_websocket: RawWebSocket) -> None:
    raw_websocket.send_frames(encode_frame(PING) * 5000)
    assert raw_websocket.receive_close_code() == 1008


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        (handshake_request(sec_websocket_key=None), {400}),
        (handshake_request(sec_websocket_key="short"), {400}),
        (handshake_request(sec_websocket_key="!" * 24), {400}),
        (handshake_request(sec_websocket_version="8"), {426}),
        (handshake_request(sec_websocket_version="25"), {426}),
        (handshake_request(sec_websocket_version="13, 8"), {426}),
        (handshake_request(sec_websocket_version=""), {426}),
        (handshake_request(sec_websocket_version=None), {400}),
        (handshake_request(upgrade="h2c"), {400, 404, 426}),
        (handshake_request(connection="close"), {400, 404, 426}),
        (handshake_request().replace(b"GET", b"POST", 1), {400, 404, 405}),
        (handshake_request("/nowhere"), {404}),
        (handshake_request("/sockets"), {404}),
        (handshake_request(origin="http://evil.example"), {403}),
        (handshake_request(origin="null"), {403}),
        (handshake_request(cookie="a=b", origin="http://evil.example"), {403}),
        (handshake_request(sec_fetch_site="cross-site"), {403}),
        (handshake_request(host="attacker.example", origin="http://attacker.example"), {421}),
        (handshake_request("/ws?topics=*"), {400}),
        (handshake_request("/ws?topics=" + ",".join(f"t{n}" for n in range(101))), {400}),
        (handshake_request("/ws?topics=" + "x" * 4000), {400}),
        (handshake_request("/ws?meta={"), {400}),
        (handshake_request("/ws?meta=%22" + "x" * 1100 + "%22"), {400}),
        (handshake_request(cookie="a" * 9000, origin="http://evil.example"), {403}),
        (handshake_request(cookie="a" * 40_000, origin="http://127.0.0.1"), {431}),
        (handshake_request("/ws?meta=" + "1" * 8180), {400}),
        (handshake_request("/ws?meta=" + "1" * 8190), {414}),
        (handshake_request(sec_websocket_protocol="\xff"), {400}),
        (handshake_request("/ws?meta=NaN"), {400}),
        (handshake_request("/ws?meta=[1e999]"), {400}),
        (handshake_request("/ws?meta=%22%5Cud800%22"), {400}),
        (handshake_request("/ws?meta=%7B%22%5Cudfff%22:1%7D"), {400}),
        (handshake_request("/ws?meta=" + "[" * 40 + "1" + "]" * 40), {400}),
        (handshake_request("/ws?meta=" + "[" * 500 + "]" * 500), {400}),
    ],
)
def test_invalid_handshakes_are_rejected(
    single_replica: SocketReplicas, request_bytes: bytes, statuses: set[int]
) -> None:
    with socket.create_connection(("127.0.0.1", single_replica[0].port), timeout=TIMEOUT) as connection:
        connection.sendall(request_bytes)
        response = connection.makefile("rb")
        head = b"".join(iter(response.readline, b"\r\n")).removesuffix(b"\r\n")
        body = response.readline()
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert int(head.split(b" ", 2)[1]) in statuses
    assert (json.loads(body)["status"], fields[b"content-type"]) == (int(head[9:12]), b"application/problem+json")
    assert fields.get(b"sec-websocket-version") == (b"13" if statuses == {426} else None)
    replica = single_replica[0]
    request_id = fields[b"x-request-id"].decode()
    line = next(line for line in eventually(lambda: log_lines(replica, request_id), 5) if "reason" in line)
    assert (line["client"], line["reason"]) == ("127.0.0.1", json.loads(body)["detail"])
    assert "Traceback" not in replica.log


def log_lines(service: ServiceProcess, request_id: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in service.log.splitlines()]
    return [line for line in lines if line.get("request_id") == request_id]


def test_refused_and_opened_handshakes_have_the_id_of_the_gateway(single_replica: SocketReplicas) -> None:
    more = {"x_request_id": "from-the-gateway", "x_forwarded_for": "203.0.113.7"}
    for request_bytes, status in (
        (handshake_request("/ws?topics=a%20b", **more), b"400"),
        (handshake_request(sec_websocket_version="8", **more), b"426"),
        (handshake_request(user_agent="M\xe9dia", **more), b"101"),
    ):
        with socket.create_connection(("127.0.0.1", single_replica[0].port), timeout=TIMEOUT) as connection:
            connection.sendall(request_bytes)
            received = connection.recv(65536)
        assert received[9:12] == status
        assert b"\r\nx-request-id: from-the-gateway\r\n" in received.lower()
    lines = eventually(lambda: log_lines(single_replica[0], "from-the-gateway")[2:], 5)
    refusals = log_lines(single_replica[0], "from-the-gateway")[:2]
    assert {line["client"] for line in refusals} == {"203.0.113.7"}
    assert lines[0]["message"] == "websocket closed"


def test_a_head_that_the_gateway_accepts_is_accepted(single_replica: SocketReplicas) -> None:
    """A line of more than 8 KiB, and as many fields as a client may send, with those that the gateway adds."""
    fields = {f"x_{number}": "a" * 200 for number in range(95)}
    path = "/ws?topics=a&after=" + "b" * 8000
    request_bytes = handshake_request(path, cookie="a" * 10_000, origin="http://127.0.0.1", **fields)
    with socket.create_connection(("127.0.0.1", single_replica[0].port), timeout=TIMEOUT) as connection:
        connection.sendall(request_bytes)
        assert connection.recv(65536)[9:12] == b"101"


@pytest.mark.parametrize("origin", ["http://127.0.0.1", "https://127.0.0.1"])
def test_same_origin_page_may_connect(single_replica: SocketReplicas, origin: str) -> None:
    with socket.create_connection(("127.0.0.1", single_replica[0].port), timeout=TIMEOUT) as connection:
        connection.sendall(handshake_request(origin=origin, cookie="a=b"))
        assert connection.recv(12) == b"HTTP/1.1 101"


def test_cookies_of_a_native_app_are_no_reason_to_refuse_it(single_replica: SocketReplicas) -> None:
    """Those of a balancer, for example: no page can leave Origin out."""
    with socket.create_connection(("127.0.0.1", single_replica[0].port), timeout=TIMEOUT) as connection:
        connection.sendall(handshake_request(cookie="AWSALB=abc"))
        assert connection.recv(12) == b"HTTP/1.1 101"


def test_compression_is_not_negotiated(single_replica: SocketReplicas) -> None:
    with socket.create_connection(("127.0.0.1", single_replica[0].port), timeout=TIMEOUT) as connection:
        connection.sendall(handshake_request(sec_websocket_extensions="permessage-deflate; client_max_window_bits"))
        answer = connection.recv(65536).partition(b"\r\n\r\n")[0].lower()
    assert answer.startswith(b"http/1.1 101")
    assert b"extensions" not in answer
    assert b"\r\nserver:" not in answer


def test_unnegotiated_compressed_frame_is_rejected(single_replica: SocketReplicas) -> None:
    """64 MiB in 64 KiB, from a client that offers permessage-deflate and takes the response for an agreement."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(b"[" * 64 * 1024**2) + packer.flush(zlib.Z_SYNC_FLUSH)
    before = resident_memory(single_replica[0].pid)
    client = RawWebSocket(single_replica[0].port, sec_websocket_extensions="permessage-deflate")
    client.send_frames(encode_frame(TEXT, bomb[:-4][: 64 * 1024], rsv=4))
    assert client.receive_close_code() == 1002
    client.socket.close()
    assert resident_memory(single_replica[0].pid) - before < 4 * 1024**2


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"type":"subscribe","topic":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"type":"ack","id":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
        b"[" * 65_536,
    ],
    ids=["lists", "objects", "in a topic", "in an id", "without an end"],
)
def test_deeply_nested_json_gets_an_error_reply(raw_websocket: RawWebSocket, text: bytes) -> None:
    raw_websocket.send_frames(encode_frame(TEXT, text))
    answer = raw_websocket.receive_text()
    assert answer == PONG_REPLY or answer.startswith(b'{"type":"error"')
    raw_websocket.send_frames(encode_frame(TEXT, b"?"))
    assert raw_websocket.receive_text() == PONG_REPLY


def test_redis_is_flushed_while_a_client_resumes(single_replica: SocketReplicas) -> None:
    """It reads its replay slowly, and the position of the next event is lost: it is disconnected, and resumes."""
    before = RawWebSocket(single_replica[0].port)
    sid, resume, after = (before.first_frame[name] for name in ("sid", "resume", "sequence"))
    before.socket.close()
    with httpx.Client(base_url=single_replica[0].url) as asking:
        for number in range(60):
            answer = asking.post(f"/sockets/{sid}/messages", json={"type": "t", "data": [number, "x" * 30_000]})
            assert answer.status_code == 200
        client = RawWebSocket(single_replica[0].port, f"/ws?resume={resume}&after={after}", room=4096)
        assert client.first_frame["recovered"] is True
        asking.get(f"/sockets/{sid}").raise_for_status()
        for command in ("FLUSHALL", "CLIENT KILL TYPE pubsub"):
            assert send_redis_commands(single_replica.redis.port, command).startswith(("+", ":"))
        eventually(lambda: asking.get("/readyz").status_code != 200)
        eventually(lambda: asking.get("/readyz").status_code == 200)
    assert client.receive_close_code() == 1012
    client.socket.close()


def test_client_abort_at_any_byte_of_the_handshake(single_replica: SocketReplicas) -> None:
    whole = handshake_request()
    for end in range(1, len(whole) + 1, 7):
        with socket.create_connection(("127.0.0.1", single_replica[0].port), timeout=TIMEOUT) as connection:
            connection.sendall(whole[:end])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert httpx.get(f"{single_replica[0].url}/readyz").status_code == 200
    assert "Traceback" not in single_replica[0].log
