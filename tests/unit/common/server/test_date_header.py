"""The Date field of responses is that of the second in which they are made."""

import time

import pytest

from services.common.server.date_header import date_header, date_line


def test_date_is_never_behind_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for now, expected in (
        (784111777.0, b"Sun, 06 Nov 1994 08:49:37 GMT"),
        (784111777.999, b"Sun, 06 Nov 1994 08:49:37 GMT"),
        (784111778.001, b"Sun, 06 Nov 1994 08:49:38 GMT"),
        (784111777.5, b"Sun, 06 Nov 1994 08:49:37 GMT"),  # the clock was set back
    ):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert date_header() == (b"date", expected)
        assert date_line() == b"date: " + expected + b"\r\n"
