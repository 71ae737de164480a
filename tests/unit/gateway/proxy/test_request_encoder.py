"""gateway.proxy.request_encoder: request line, headers and body framing for the upstream."""

import pytest

from gateway.forwarded import Client
from gateway.proxy.request_encoder import encode_request_head

CLIENT = Client("10.1.2.3", "https", "a.example")


@pytest.mark.parametrize(
    ("method", "pairs", "length", "framing"),
    [
        ("GET", [], 0, []),
        ("DELETE", [], 0, []),
        ("POST", [], 0, [b"content-length: 0"]),
        ("PUT", [(b"content-length", b"5")], 5, [b"content-length: 5"]),
        ("GET", [(b"content-length", b"5")], 5, [b"content-length: 5"]),
        ("PUT", [(b"transfer-encoding", b"chunked")], None, [b"transfer-encoding: chunked"]),
    ],
)
@pytest.mark.parametrize("waits", [False, True])
def test_encoded_head_frames_the_body(
    method: str, pairs: list[tuple[bytes, bytes]], length: int | None, framing: list[bytes], *, waits: bool
) -> None:
    expects = [(b"connection", b"expect, content-length"), (b"expect", b"100-continue")] if waits else []
    made = encode_request_head(method, b"/a?b", [*pairs, *expects], CLIENT, "id-1")
    assert (made.content_length, made.expect_continue) == (length, waits)
    first, *lines = made.raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert first == b"%s /a?b HTTP/1.1" % method.encode()
    assert [line for line in lines if line.startswith((b"content-length", b"transfer-encoding"))] == framing
    assert (b"expect: 100-continue" in lines) is waits
