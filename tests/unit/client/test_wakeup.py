"""The wake-up: parsed into its fields, and anything else refused."""

import pytest

from gridcast._bus.events import StreamPosition
from gridcast._bus.wakeup import Wakeup


def test_the_fields_and_the_event() -> None:
    """The event is bytes up to the end: a line feed in it belongs to it."""
    parsed = Wakeup.parse(b'6f-7\tsid\tABC\t/upload file.progress 1\tgridcast:node:a\n{"a":\n1}')
    assert parsed == Wakeup(
        StreamPosition("6f", 7), "sid", "ABC", "/upload file.progress 1", "gridcast:node:a", b'{"a":\n1}'
    )
    assert Wakeup.parse(b"6f-7\tall\t\t\t\n{}") == Wakeup(StreamPosition("6f", 7), "all", "", "", "", b"{}")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\n{}",
        b"6f-7\tall\t\t\n{}",
        b"6f-7\tall\t\t\t\t\n{}",
        b"6f\tall\t\t\t\n{}",
        b"-7\tall\t\t\t\n{}",
        b"6f-7\tall\t\xff\t\t\n{}",
    ],
)
def test_another_payload_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Wakeup.parse(payload)
