"""What is promised of an upload that is not complete: by table, and that no promise exceeds what was asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import RangeNotSatisfiable
from services.stream.growing.plan import VERY_LARGE_POSITION, first_position, plan_growing

VERY_LARGE = str(VERY_LARGE_POSITION)


def content_range(headers: list[tuple[bytes, bytes]]) -> str | None:
    return next((value.decode() for name, value in headers if name == b"content-range"), None)


@pytest.mark.parametrize(
    ("method", "wanted", "length", "status", "first", "end", "stated"),
    [
        ("GET", None, 1000, 200, 0, 1000, None),
        ("GET", "bytes=0-", 1000, 206, 0, 1000, "bytes 0-999/1000"),
        ("GET", "bytes=10-19", 1000, 206, 10, 20, "bytes 10-19/1000"),
        ("GET", "bytes=900-", 1000, 206, 900, 1000, "bytes 900-999/1000"),
        ("GET", f"bytes=10-{VERY_LARGE}", 1000, 206, 10, 1000, "bytes 10-999/1000"),
        ("GET", "bytes=-5", 1000, 206, 995, 1000, "bytes 995-999/1000"),
        ("GET", "bytes=0-1,5-6", 1000, 200, 0, 1000, None),
        ("GET", "chapters=1-2", 1000, 200, 0, 1000, None),
        ("GET", "bytes=5-2", 1000, 200, 0, 1000, None),
        ("HEAD", "bytes=10-19", 1000, 200, 0, 1000, None),
        ("GET", None, 0, 200, 0, 0, None),
        ("GET", None, None, 200, 0, None, None),
        ("GET", "bytes=0-", None, 200, 0, None, None),
        ("GET", "bytes=-5", None, 200, 0, None, None),
        ("GET", "bytes=10-", None, 206, 10, 600, "bytes 10-599/*"),
        ("GET", "bytes=10-19", None, 206, 10, 20, "bytes 10-19/*"),
        ("GET", "bytes=0-9999", None, 206, 0, 600, "bytes 0-599/*"),
        ("GET", f"bytes=0-{VERY_LARGE}", None, 206, 0, None, f"bytes 0-{VERY_LARGE}/*"),
        ("GET", f"bytes=599-{VERY_LARGE}", None, 206, 599, None, f"bytes 599-{VERY_LARGE}/*"),
        ("HEAD", "bytes=0-", None, 206, 0, 600, "bytes 0-599/*"),
        ("HEAD", None, None, 200, 0, None, None),
    ],
)
def test_plans(
    method: str, wanted: str | None, length: int | None, status: int, first: int, end: int | None, stated: str | None
) -> None:
    plan = plan_growing(method, wanted, 600, length)
    assert (plan.status, plan.first, plan.end, content_range(plan.headers)) == (status, first, end, stated)
    names = {name for name, _ in plan.headers}
    assert (b"content-length" in names) is (end is not None)
    assert (b"accept-ranges" in names) is (length is not None)


@pytest.mark.parametrize("wanted", ["bytes=1000-", "bytes=5000-6000"])
def test_what_is_behind_the_end_is_416(wanted: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as told:
        plan_growing("GET", wanted, 600, 1000)
    assert told.value.headers["content-range"] == "bytes */1000"


@given(
    st.sampled_from(["GET", "HEAD"]),
    st.none()
    | st.text("bytes=-,0123456789", max_size=20)
    | st.builds("bytes={}-{}".format, st.integers(0, 99), st.integers(0, 99)),
    st.integers(1, 100),
    st.none() | st.integers(1, 200),
)
def test_a_plan_promises_no_more_than_there_will_be(
    method: str, wanted: str | None, available: int, length: int | None
) -> None:
    if length is not None:
        available = min(available, length)
    elif first_position(wanted) >= available:
        return  # it is waited for
    try:
        plan = plan_growing(method, wanted, available, length)
    except RangeNotSatisfiable:
        assert length is not None
        return
    if plan.end is not None:
        assert 0 <= plan.first < plan.end <= (available if length is None else length)
        stated = dict(plan.headers)[b"content-length"]
        assert int(stated) == plan.end - plan.first
    if plan.status == 206:
        assert wanted is not None
