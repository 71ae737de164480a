"""deploy.ingest: settings, command lines, and a sender that loses nothing whatever the service answers."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.ingest import sending
from deploy.ingest.listeners import (
    MAX_KEY_LENGTH,
    MIN_KEY_LENGTH,
    PORTS,
    IngestListener,
    IngestSettings,
    InvalidIngestSettings,
    Protocol,
    ffmpeg_command,
    publisher_url,
    read_settings,
)
from deploy.ingest.live_api import ApiError, LiveApi, PublishedStream
from deploy.ingest.publishing import MAX_ERROR_BYTES, ErrorOutput
from deploy.ingest.sending import MAX_UNSENT_BYTES, Sender

KEY = "0123456789abcdefABCD"
STREAM = PublishedStream("id", "token", "/live/id/tus", "/live/id/index.m3u8")
SETTINGS = IngestSettings("http://127.0.0.1:8000", KEY)


def test_defaults_are_loopback_and_no_open_port() -> None:
    settings = read_settings({"INGEST_RTMP_PORT": "1935"}, KEY)
    assert (settings.host, settings.folder, settings.key) == ("127.0.0.1", "live", KEY)
    assert settings.listeners == (IngestListener("rtmp", 1935),)
    assert KEY not in repr(settings)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "no listener"),
        ({"INGEST_RTMP_PORT": "0"}, "no listener"),
        ({"INGEST_RTMP_PORT": "65536"}, "INGEST_RTMP_PORT is a port"),
        ({"INGEST_SRT_PORT": "-1"}, "INGEST_SRT_PORT is a port"),
        ({"INGEST_TS_PORT": "x"}, "INGEST_TS_PORT is a port"),
        ({"INGEST_RTMP_PORT": "1", "INGEST_URL": "ftp://a"}, "INGEST_URL"),
        ({"INGEST_RTMP_PORT": "1", "INGEST_KEY": "k" * (MIN_KEY_LENGTH - 1)}, "INGEST_KEY has"),
        ({"INGEST_RTMP_PORT": "1", "INGEST_KEY": "k" * (MAX_KEY_LENGTH + 1)}, "INGEST_KEY has"),
        ({"INGEST_RTMP_PORT": "1", "INGEST_KEY": "a&mode=caller&x=0"}, "INGEST_KEY has"),
        ({"INGEST_RTMP_PORT": "1", "INGEST_AUDIO": "mp3"}, "INGEST_AUDIO"),
        ({"INGEST_RTMP_PORT": "1", "INGEST_GRACE": "nan"}, "INGEST_GRACE"),
        ({"INGEST_RTMP_PORT": "1", "INGEST_GRACE": "-1"}, "INGEST_GRACE"),
    ],
)
def test_wrong_settings_are_named_without_their_value(environment: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidIngestSettings, match=said) as caught:
        read_settings(environment, KEY)
    assert not any(len(value) > 3 and value in str(caught.value) for value in environment.values())


@pytest.mark.parametrize("protocol", PORTS)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_each_protocol_writes_fragments_of_a_second_to_stdout(protocol: Protocol, host: str) -> None:
    settings = IngestSettings("http://127.0.0.1:8000", KEY, host=host)
    command = ffmpeg_command(IngestListener(protocol, 1935), settings)
    assert command[0] == "ffmpeg"
    assert command[-1] == "pipe:1"
    assert command[command.index("-frag_duration") + 1] == "1000000"
    (address,) = (word for word in command if "://" in word)
    assert f"//{'[::1]' if host == '::1' else host}:1935" in address
    assert (KEY in address) == (protocol in {"rtmp", "srt"})
    video = command[command.index("-c:v") + 1]
    assert video == ("libx264" if protocol == "webm" else "copy")


def test_sound_is_copied_unless_it_is_asked_for() -> None:
    for protocol in ("rtmp", "srt", "mpegts"):
        listener = IngestListener(protocol, 1)
        copied = ffmpeg_command(listener, SETTINGS)
        assert copied[copied.index("-c:a") + 1] == "copy"
        assert ("aac_adtstoasc" in copied) == (protocol != "rtmp")
        encoded = ffmpeg_command(listener, IngestSettings("http://a", KEY, reencode_audio=True))
        assert encoded[encoded.index("-c:a") + 1] == "aac"


def test_addresses_for_publishers() -> None:
    assert publisher_url(IngestListener("rtmp", 1935), "h", KEY) == f"rtmp://h:1935/live/{KEY}"
    assert publisher_url(IngestListener("srt", 8890), "h", KEY) == f"srt://h:8890?passphrase={KEY}"
    assert publisher_url(IngestListener("webm", 9), "h", "") == "tcp://h:9"


class UnreliableService(LiveApi):
    """A tus resource that fails as `faults` say: before the bytes are stored, after it, or in the middle of them."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("http://127.0.0.1:1")
        self.faults = faults
        self.received = bytearray()
        self.ended = False
        self.requests = 0

    def _fault(self) -> str:
        self.requests += 1
        return self.faults.pop(0) if self.faults else ""

    def begin(self, stream: PublishedStream) -> str:
        if self._fault():
            raise ApiError(503, "starting")
        return f"{stream.tus}?source=1"

    def offset(self, stream: PublishedStream, path: str) -> int:
        assert path == f"{stream.tus}?source=1"
        if self._fault():
            raise ApiError(0, "ConnectionResetError")
        return len(self.received)

    def append(self, stream: PublishedStream, path: str, offset: int, data: bytes, *, is_last: bool = False) -> int:
        assert path == f"{stream.tus}?source=1"
        fault = self._fault()
        if fault == "before":
            raise ApiError(502, "no replica")
        if offset != len(self.received):
            raise ApiError(409, "offset")
        self.received += data[: len(data) // 2] if fault in {"middle", "half"} else data
        self.ended = self.ended or (is_last and len(self.received) == offset + len(data))
        if fault in {"after", "middle"}:
            raise ApiError(0, "RemoteDisconnected")
        return len(self.received)


FAULTS = st.lists(st.sampled_from(["", "", "before", "after", "middle", "half"]), max_size=30)


@given(st.lists(st.binary(max_size=50), max_size=20), FAULTS)
def test_no_byte_is_lost_sent_twice_or_out_of_order(pieces: list[bytes], faults: list[str]) -> None:
    service = UnreliableService(faults)
    sender = Sender(service, STREAM, lambda _seconds: None)
    sender.begin()
    for piece in pieces:
        sender.feed(piece)
        sender.flush()
    sender.finish()
    assert bytes(service.received) == b"".join(pieces)
    assert service.ended
    assert sender.unsent_bytes == 0


def test_long_input_is_sent_in_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MAX_REQUEST_BYTES", 10)
    service = UnreliableService([])
    sender = Sender(service, STREAM, lambda _seconds: None)
    sender.begin()
    sender.feed(bytes(95))
    sender.flush()
    assert (len(service.received), service.requests) == (95, 11)


def refuse(status: int) -> Callable[..., Any]:
    def raise_error(*_arguments: object, **_options: object) -> Any:
        raise ApiError(status, "no")

    return raise_error


@pytest.mark.parametrize("status", [401, 403, 404, 410, 413, 415, 507])
def test_a_final_refusal_is_raised_at_once(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    service = UnreliableService([])
    waited: list[float] = []
    sender = Sender(service, STREAM, waited.append)
    sender.begin()
    monkeypatch.setattr(service, "append", refuse(status))
    sender.feed(b"x")
    with pytest.raises(ApiError):
        sender.flush()
    assert waited == []


def test_a_stream_that_another_publisher_took_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    service = UnreliableService([])
    waited: list[float] = []
    sender = Sender(service, STREAM, waited.append)
    sender.begin()
    monkeypatch.setattr(service, "append", refuse(409))
    sender.feed(b"x")
    with pytest.raises(ApiError, match="409"):
        sender.flush()
    assert len(waited) == len(sending.RESEND_PAUSES) + 1


def test_a_sender_that_is_full_says_so() -> None:
    sender = Sender(UnreliableService([]), STREAM)
    sender.feed(bytes(MAX_UNSENT_BYTES - 1))
    assert not sender.is_full
    sender.feed(b"x")
    assert sender.is_full


def test_the_error_output_is_read_in_pieces_and_does_not_grow() -> None:
    errors = ErrorOutput()
    os.write(errors.fileno(), b"one\n")
    assert errors.poll() == b"one\n"
    assert errors.poll() == b""
    os.write(errors.fileno(), bytes(MAX_ERROR_BYTES))
    errors.poll()
    os.write(errors.fileno(), b"two\n")
    assert errors.poll().endswith(b"two\n")
    assert os.fstat(errors.fileno()).st_size < 2 * MAX_ERROR_BYTES
    errors.close()
