"""services.upload.endpoints.transfer_encoding: decoded the same however it is split, and nothing else accepted."""

import base64
import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import BadRequest, UnsupportedMediaType
from services.upload.endpoints.transfer_encoding import MAX_TRAILING_SPACE_BYTES, create_decoder


def decode(encoding: bytes, pieces: list[bytes]) -> bytes:
    decoder = create_decoder(encoding)
    return b"".join(decoder.feed(piece) for piece in pieces) + decoder.finish()


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def encode_quoted_printable(data: bytes) -> bytes:
    """Binary, with lines that end in CRLF."""
    plain = frozenset(range(33, 127)) - {ord("=")}
    characters = [bytes([byte]) if byte in plain else b"=%02X" % byte for byte in data]
    return b"=\r\n".join(b"".join(characters[start : start + 25]) for start in range(0, len(characters), 25))


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        (b"", bytes),
        (b"8bit", bytes),
        (b" Binary", bytes),
        (b"7BIT", bytes),
        (b"base64", base64.b64encode),
        (b"BASE64", lambda data: base64.encodebytes(data).replace(b"\n", b"\r\n")),
        (b"quoted-printable", encode_quoted_printable),
    ],
)
def test_round_trip_however_it_is_split(encoding: bytes, encode: Callable[[bytes], bytes]) -> None:
    @given(st.binary(max_size=300), st.lists(st.integers(0, 500), max_size=8))
    def check(data: bytes, cuts: list[int]) -> None:
        assert decode(encoding, split(encode(data), cuts)) == data

    check()


@pytest.mark.parametrize(
    ("sent", "content"),
    [
        (b"=00=01 hello =3D world", b"\x00\x01 hello = world"),
        (b"a=\r\nb", b"ab"),
        (b"a= \t\r\nb", b"ab"),
        (b"a  \t\r\nb \t", b"a\r\nb"),
        (b"a=20\r\n", b"a \r\n"),
        (b"a=c3=AF\n_", b"a\xc3\xaf\n_"),
        (b"a\rb\r", b"a\rb\r"),
        (b"", b""),
    ],
)
def test_quoted_printable(sent: bytes, content: bytes) -> None:
    for cut in range(len(sent) + 1):
        assert decode(b"quoted-printable", [sent[:cut], sent[cut:]]) == content


@pytest.mark.parametrize(
    ("encoding", "sent"),
    [
        (b"base64", b"a"),
        (b"base64", b"YQ"),
        (b"base64", b"YQ==YQ=="),
        (b"base64", b"YQ==="),
        (b"base64", b"Y=Q="),
        (b"base64", b"YQ-_"),
        (b"base64", b"====\x00"),
        (b"quoted-printable", b"a="),
        (b"quoted-printable", b"a=4"),
        (b"quoted-printable", b"=zz"),
        (b"quoted-printable", b"=4 1"),
        (b"quoted-printable", b"a=\nb"),
        (b"quoted-printable", b" " * (MAX_TRAILING_SPACE_BYTES + 1)),
    ],
)
def test_what_is_not_in_that_encoding_is_refused(encoding: bytes, sent: bytes) -> None:
    for pieces in ([sent], [bytes([byte]) for byte in sent]):
        with pytest.raises(BadRequest, match=encoding.decode()):
            decode(encoding, pieces)


@pytest.mark.parametrize("encoding", [b"gzip", b"x-uuencode", b"base64, base64", b"base 64"])
def test_unknown_encodings_are_refused(encoding: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        create_decoder(encoding)


@given(st.sampled_from([b"base64", b"quoted-printable"]), st.lists(st.binary(max_size=50), max_size=5))
def test_arbitrary_bytes_raise_only_bad_request(encoding: bytes, pieces: list[bytes]) -> None:
    try:
        found = decode(encoding, pieces)
    except BadRequest:
        return
    assert decode(encoding, [b"".join(pieces)]) == found
