"""Rules of the live service without I/O: who publishes, names of objects, limits, rate and pace."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import BadRequest, Conflict, UnsupportedMediaType
from services.common.media import MediaName
from services.common.store.live_store import LivePosition, LiveState, LiveStream, NewStream
from services.live.object_names import object_kind
from services.live.publishers import PublisherKind, Turn, is_active, settle_turn, take_turn
from services.live.stream_limits import Extent, Pacer, RateMeter, StreamLimits

NOW = datetime(2026, 11, 28, tzinfo=UTC)
NEW = NewStream(
    "id",
    "upload",
    MediaName("", "a.mp4"),
    "",
    "",
    2,
    60,
    takeover=False,
    window=None,
    token_sha256="",
    token_expires_at=NOW,
)


def stream(
    publisher: str, source: int, silent: float | None, state: LiveState = "live", *, takeover: bool = False
) -> LiveStream:
    """A stream whose publisher sent its last byte `silent` seconds ago."""
    at = None if silent is None else NOW - timedelta(seconds=silent)
    new = replace(NEW, takeover=takeover)
    return LiveStream(new, state, "", 1, publisher, LivePosition(1, source=source), (), NOW, None, at, None, None)


@pytest.mark.parametrize(
    ("publisher", "source", "silent", "kind", "anew", "expected"),
    [
        ("", 0, None, "tus", False, Turn("tus/1", begins=True)),
        ("tus/1", 1, 0, "tus", False, Turn("tus/1", begins=False)),
        ("tus/2", 1, 0, "tus", False, None),  # its writer died before it stored anything, a moment ago
        ("tus/2", 1, 9, "tus", False, Turn("tus/2", begins=True)),
        ("tus/1", 1, 0, "tus", True, None),
        ("tus/1", 1, 6, "tus", True, Turn("tus/2", begins=True)),
        ("body/3", 3, 1, "body", True, None),
        ("body/3", 3, 5, "body", True, Turn("body/4", begins=True)),
        ("", 3, 0, "body", True, Turn("body/4", begins=True)),
        ("objects/3", 3, 1, "objects", False, Turn("objects/3", begins=False)),
        ("objects/3", 3, 1, "tus", False, None),
        ("tus/1", 1, None, "body", True, Turn("body/2", begins=True)),
    ],
)
def test_whose_turn_it_is(
    publisher: str, source: int, silent: float | None, kind: PublisherKind, anew: bool, expected: Turn | None
) -> None:
    found = stream(publisher, source, silent)
    if expected is None:
        with pytest.raises(Conflict, match="another publisher"):
            take_turn(found, kind, NOW, anew=anew)
        found = replace(found, new=replace(NEW, takeover=True))
        expected = Turn(f"{kind}/{source + 1}", begins=True)
    turn = take_turn(found, kind, NOW, anew=anew)
    assert turn == expected
    assert settle_turn(turn, found) == turn
    behind = replace(found, position=replace(found.position, source=source + 5))
    if turn.begins:  # behind the one that came between the two readings, and is fenced off
        assert settle_turn(turn, behind) == Turn(f"{kind}/{source + 6}", begins=True)
    else:
        with pytest.raises(Conflict, match="has taken"):
            settle_turn(turn, behind)


def test_an_interrupted_publisher_is_not_active() -> None:
    assert is_active(stream("tus/1", 1, 1), NOW)
    assert not is_active(stream("tus/1", 1, 1, "interrupted"), NOW)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.m4s", "media"), ("init.MP4", "media"), ("s_1.cmfv", "media"), ("x.m3u8", "list"), ("x.mpd.tmp", "list")],
)
def test_names_of_objects(name: str, kind: str) -> None:
    assert object_kind(name) == kind


@pytest.mark.parametrize("name", ["", ".mp4", "a/b.m4s", "a" * 130 + ".mp4", "é.mp4", "-a.mp4"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(BadRequest):
        object_kind(name)


@pytest.mark.parametrize("name", ["a.ts", "a.webm", "a", "a.m4s.exe"])
def test_objects_of_other_media(name: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        object_kind(name)


LIMITS = StreamLimits(1_000_000, 3600.0, 2000, 4.0)


def test_limits_are_stored_and_judged() -> None:
    assert StreamLimits.from_json(LIMITS.to_json()) == LIMITS
    assert LIMITS.exceeded(Extent(999_999, 3599.0)) is None
    assert LIMITS.exceeded(Extent(1_000_000, 1.0)) == "bytes"
    assert LIMITS.exceeded(Extent(1, 3600.0)) == "duration"


def test_each_limit_is_warned_of_once() -> None:
    """Row 33."""
    warned = []
    before = Extent(0, 0.0)
    for second in range(1, 3600):
        after = Extent(second * 250, float(second))
        warned += [(limit, second) for limit, _ in LIMITS.warnings(before, after)]
        before = after
    assert warned == [("duration", 3300)]
    assert list(LIMITS.warnings(Extent(600_000, 600.0), Extent(800_000, 800.0))) == [("bytes", 200.0)]
    assert not list(LIMITS.warnings(Extent(600_000, 600.0), Extent(799_999, 800.0))), "more than a fifth is left"


@given(
    duration=st.floats(1, 100_000),
    steps=st.lists(st.floats(0.01, 30), min_size=1, max_size=50),
    rate=st.integers(1, 10**6),
)
def test_every_limit_is_warned_of_in_proportion(duration: float, steps: list[float], rate: int) -> None:
    """Row 33: also a stream that may be no longer than the five minutes."""
    limits = StreamLimits(1 << 60, duration)
    scale = duration / sum(steps)
    warned, before = [], Extent(0, 0.0)
    for step in steps:
        after = Extent(before.bytes + rate, before.seconds + step * scale)
        warned += [(limit, left, step * scale) for limit, left in limits.warnings(before, after)]
        before = after
    assert [limit for limit, _, _ in warned] == ["duration"], "once, whatever the steps"
    at_least = min(300.0, duration / 5)
    assert warned[0][1] >= at_least - warned[0][2] - 0.01


def test_the_rate_is_that_of_half_a_minute_of_media() -> None:
    meter = RateMeter(Extent(0, 0.0))
    rates = [meter.add(Extent(second * 100, float(second))) for second in range(1, 61)]
    assert rates[:29] == [None] * 29
    assert rates[29:] == [pytest.approx(100)] * 31
    assert meter.add(Extent(60 * 100 + 29_000, 89.0)) == pytest.approx(32_000 / 30, rel=0.1)


@given(
    steps=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30)), max_size=40), speed=st.sampled_from([0.0, 1.0, 4.0])
)
def test_media_is_taken_no_faster_than_its_speed_allows(steps: list[tuple[float, float]], speed: float) -> None:
    """Row 36."""
    now = start = 1000.0
    seconds = 0.0
    pacer = Pacer(speed, seconds, now)
    for length, pause in steps:
        now += pause
        seconds += length
        delay = pacer.delay(seconds, now)
        assert delay >= 0
        now += delay
        if not speed:
            assert delay == 0
        else:
            assert seconds <= (now - start) * speed + 10.0 * (1 + speed) + 1e-6


def test_a_burst_is_allowed_and_time_without_media_is_no_credit() -> None:
    pacer = Pacer(4.0, 0.0, 0.0)
    assert pacer.delay(10.0, 0.0) == 0
    assert pacer.delay(50.0, 0.0) == 10.0
    assert pacer.delay(50.0, 1000.0) == 0
    assert pacer.delay(90.0, 1000.0) > 5
