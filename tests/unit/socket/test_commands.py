"""services.socket.commands and handshake: what a client sends when it connects, and afterwards."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import BadRequest, Forbidden
from services.common.http.origins import OriginPolicy
from services.socket import commands, handshake
from services.socket.commands import Ack, InvalidCommand, Ping, Subscribe, Unsubscribe

SID = "A" * 51 + "Q"


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ('{"type":"ping"}', Ping()),
        ('{"type":"subscribe","topic":"a"}', Subscribe("a")),
        ('{"type":"unsubscribe","topic":"a"}', Unsubscribe("a")),
        ('{"type":"ack","id":"1"}', Ack("1")),
        ('"ping"', Ping()),
        ("ping", Ping()),
        ("", Ping()),
        ("{}", Ping()),
        ("[]", Ping()),
        ("null", Ping()),
        ("NaN", Ping()),
        ('{"type":1}', Ping()),
        ('{"message":"hello"}', Ping()),
        ("[" * 10_000, Ping()),
        ('{"a":' * 10_000, Ping()),
        ('{"type":"\ud800"', Ping()),
        (b'{"type":"subscribe","topic":"a"}', Subscribe("a")),
        (b'{"type":"ack","id":"1"}', Ack("1")),
        (b"ping", Ping()),
        (b"", Ping()),
        (b"\xff{}", Ping()),
        ('{"type":"ack","id":"1"}'.encode("utf-16"), Ping()),
        (b"[" * 10_000, Ping()),
    ],
)
def test_valid_commands_and_plain_messages(text: str | bytes, command: commands.Command) -> None:
    assert commands.parse_command(text) == command


@pytest.mark.parametrize(
    "said",
    [
        {"type": "publish"},
        {"type": ""},
        {"type": "subscribe"},
        {"type": "subscribe", "topic": 1},
        {"type": "subscribe", "topic": ""},
        {"type": "subscribe", "topic": "*"},
        {"type": "subscribe", "topic": "a b"},
        {"type": "subscribe", "topic": "x" * 1024 * 1024},
        {"type": "unsubscribe", "topic": []},
        {"type": "ack"},
        {"type": "ack", "id": 5},
        {"type": "ack", "id": "a b"},
        {"type": "ack", "id": ""},
    ],
)
def test_invalid_commands_are_explained(said: dict[str, object]) -> None:
    wrong = commands.parse_command(json.dumps(said))
    assert isinstance(wrong, InvalidCommand)
    assert wrong.detail


@given(st.text() | st.binary())
def test_no_client_message_raises(text: str | bytes) -> None:
    commands.parse_command(text)


def test_connect_request() -> None:
    wish = handshake.parse_connect_request(
        f"topics=a,b,,a&topics=c&meta=%7B%22n%22:1%7D&resume={SID}.xyz&after=6f-7".encode(), 10
    )
    assert wish == handshake.ConnectRequest(SID, "xyz", "6f-7", ("a", "b", "c"), '{"n":1}')
    assert handshake.parse_connect_request(b"", 10) == handshake.ConnectRequest("", "", "", (), "")


@pytest.mark.parametrize("resume", [b"x", b"x.y", SID.encode(), SID.encode() + b".", b"." + SID.encode()])
def test_invalid_secret_asks_for_a_new_sid(resume: bytes) -> None:
    wish = handshake.parse_connect_request(b"resume=" + resume, 10)
    assert (wish.sid, wish.secret) == ("", "")


@pytest.mark.parametrize(
    "query",
    [
        b"topics=a%20b",
        b"topics=*",
        b"topics=" + b",".join(b"t%d" % n for n in range(11)),
        b"topics=%FF",
        b"meta={",
        b"meta=NaN",
        b"meta=-1e999",
        b"meta=%22%5Cudc00%22",
        b"meta=" + b"[" * 34 + b"]" * 34,
        b"meta=%22" + b"x" * 1024 + b"%22",
        b"meta=" + b"[" * 1000,
        b"&".join(b"a=1" for _ in range(50)),
        b"\xff",
    ],
)
def test_invalid_connect_requests_are_rejected(query: bytes) -> None:
    with pytest.raises(BadRequest):
        handshake.parse_connect_request(query, 10)


@pytest.mark.parametrize(
    ("headers", "allowed", "may"),
    [
        ({"host": "a.example"}, "", True),
        ({"host": "a.example", "origin": "http://a.example"}, "", True),
        ({"host": "a.example:8000", "origin": "http://a.example:8000"}, "", True),
        ({"host": "A.example", "origin": "http://a.EXAMPLE"}, "", True),
        ({"host": "10.0.0.1:8003", "x-forwarded-host": "a.example", "origin": "https://a.example"}, "", True),
        ({"host": "a.example", "origin": "https://b.example"}, "https://b.example", True),
        ({"host": "a.example", "origin": "https://B.example"}, "https://b.example", True),
        ({"host": "a.example", "origin": "null"}, "*", True),
        ({"host": "a.example", "cookie": "a=b"}, "*", True),
        ({"host": "a.example", "origin": "http://evil.example"}, "", False),
        ({"host": "a.example:8000", "origin": "http://a.example"}, "", False),
        ({"host": "a.example", "origin": "http://a.example.evil.example"}, "", False),
        ({"host": "a.example", "origin": "null"}, "", False),
        ({"host": "a.example", "origin": ""}, "", False),
        ({"host": "", "origin": ""}, "", False),
        ({"host": "a.example", "cookie": "a=b"}, "", True),
        ({"host": "a.example", "cookie": "a=b", "origin": "http://evil.example"}, "", False),
        ({"host": "a.example:443", "origin": "https://a.example"}, "", True),
        ({"host": "a.example", "sec-fetch-site": "cross-site"}, "", False),
        ({"host": "a.example", "x-forwarded-host": "b.example", "origin": "http://a.example"}, "", False),
        ({"host": "a.example", "origin": "http://b.example"}, "https://b.example", False),
        ({"host": "a.example", "origin": "http://["}, "", False),
    ],
)
def test_allowed_origins(headers: dict[str, str], allowed: str, may: bool) -> None:
    origins = OriginPolicy(allowed)
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    if may:
        handshake.check_origin(fields, origins)
    else:
        with pytest.raises(Forbidden):
            handshake.check_origin(fields, origins)


@given(st.binary(max_size=200))
def test_arbitrary_query_raises_only_bad_request(query: bytes) -> None:
    try:
        handshake.parse_connect_request(query, 5)
    except BadRequest as error:
        assert error.detail  # noqa: PT017
