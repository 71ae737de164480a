"""Wake-ups: what was encoded is decoded, anything else is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.live.wakeups import WakeUp, decode_wake_up, encode_wake_up


@given(st.text(max_size=40), st.integers(-1, 10**9), st.sampled_from(["waiting", "live", "interrupted", "ended"]))
def test_a_wake_up_is_decoded(stream_id: str, last_segment: int, state: str) -> None:
    wake_up = WakeUp(stream_id, last_segment, state)
    assert decode_wake_up(encode_wake_up(wake_up)) == wake_up


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b'{"id": "a", "n": 1}',
        b'{"id": 1, "n": 1, "state": "live"}',
        b'{"id": "a", "n": true, "state": "live"}',
        b'{"id": "a", "n": 1, "state": "live"}' + b" " * 1_000,
    ],
)
def test_anything_else_is_none(message: bytes) -> None:
    assert decode_wake_up(message) is None
