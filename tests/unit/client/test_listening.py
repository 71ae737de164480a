"""The state of a listener, and which ranges a seekable file fetches."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcast._flows.listening import ListenSession
from gridcast._flows.read_ahead import CACHE_BYTES, MAX_FETCH_BYTES, ReadAhead
from gridcast._flows.single_requests import get_info
from gridcast._remote_file import RemoteFile
from gridcast.errors import InvalidRequest, SessionEnded, UnexpectedResponse
from gridcast.values import EventGap, ReceivedEvent
from tests.support.client_model import ModelServer


def first(sequence: str, *, recovered: bool = False, resume: str = "s1") -> str:
    return json.dumps({"sid": "A", "resume": resume, "sequence": sequence, "recovered": recovered})


def event(sequence: str, kind: str = "news", **data: object) -> str:
    return json.dumps(
        {"sequence": sequence, "specversion": "1.0", "id": sequence, "source": "/x", "type": kind, "data": data}
    )


def connected() -> ListenSession:
    session = ListenSession(["a", "b:c"], lambda: 0.5)
    assert session.connect_target() == "/ws?topics=a%2Cb%3Ac"
    assert session.receive(first("e-1")) == ()
    return session


def test_it_resumes_behind_the_last_event() -> None:
    session = connected()
    (received,) = session.receive(event("e-5"))
    assert isinstance(received, ReceivedEvent)
    session.record_close(None, "")
    assert session.connect_target() == "/ws?resume=s1&after=e-5&topics=a%2Cb%3Ac"
    assert session.receive(first("e-9", recovered=True, resume="s2")) == ()
    assert session.connect_target() == "/ws?resume=s2&after=e-5&topics=a%2Cb%3Ac"


def test_gaps_are_told() -> None:
    session = connected()
    session.record_close(1012, "service restart")
    session.connect_target()
    (gap,) = session.receive(first("f-0"))
    assert isinstance(gap, EventGap)
    (gap,) = session.receive(event("f-1", "socket.resync", reason="history lost"))
    assert gap == EventGap("history lost")
    assert session.connect_target() == "/ws?resume=s1&after=f-1&topics=a%2Cb%3Ac"


def test_an_ending_token_is_asked_for_where_there_is_another_one() -> None:
    session = connected()
    (shown,) = session.receive(event("2", "socket.expiring", expires=7))
    assert isinstance(shown, ReceivedEvent)
    session.renews_tokens = True
    assert session.receive(event("3", "socket.expiring", expires=7)) == ()
    assert session.needs_token
    assert json.loads(session.token_command("t")) == {"type": "token", "token": "t"}
    assert "after=3" in session.connect_target()


def test_replies_to_commands_are_no_events() -> None:
    session = connected()
    for frame in ('{"pong":true}', '{"type":"subscribed","topic":"a","since":"e-1"}', '{"type":"error","detail":"x"}'):
        assert session.receive(frame) == ()
    session.command("subscribe", topic="d")
    session.command("unsubscribe", topic="a")
    assert list(session.topics) == ["b:c", "d"]


@pytest.mark.parametrize("frame", ["", "[]", "1", '{"sid":"A"}', "[" * 100_000, b"\xff"])
def test_other_servers_are_recognised(frame: str | bytes) -> None:
    session = ListenSession([], lambda: 0.0)
    session.connect_target()
    with pytest.raises(UnexpectedResponse):
        session.receive(frame)


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (1008, "session resumed elsewhere", SessionEnded),
        (1008, "closed by an operator", SessionEnded),
        (1009, "", InvalidRequest),
    ],
)
def test_some_closes_are_final(code: int, reason: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        connected().record_close(code, reason)


def test_delays_grow_and_a_restart_is_followed_at_once() -> None:
    session = connected()
    assert session.record_close(1012, "service restart") == 0.0
    delays = [session.record_close(None, "") for _ in range(10)]
    assert delays == sorted(delays)
    assert max(delays) == 15.0  # half of 30 s, by the random number
    assert connected().record_close(1008, "too many frames") > 5


@pytest.mark.parametrize("topic", ["", "a b", "a,b", "x" * 201, "ü", "*"])
def test_topics_are_checked(topic: str) -> None:
    with pytest.raises(InvalidRequest, match="topic"):
        ListenSession([topic], lambda: 0.0)


@given(st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(0, 200_000)), max_size=20))
def test_reads_at_any_position_give_the_bytes_of_the_file(reads: list[tuple[int, int]]) -> None:
    content = bytes(range(251)) * 10_000
    model = io.BytesIO(content)
    server = ModelServer(files={"a": content})
    info = server.run(get_info(server.context(), "a"))
    with RemoteFile(info, lambda start, size: content[start : start + size]) as file:
        for position, size in reads:
            assert (file.seek(position), file.read(size)) == (model.seek(position), model.read(size))


def test_reading_in_order_fetches_ever_more_and_memory_is_bounded() -> None:
    ahead = ReadAhead(1 << 30)
    position, sizes = 0, []
    for _ in range(20):
        start, size = ahead.plan(position, 1)
        assert start == position
        ahead.store(start, bytes(size))
        sizes.append(size)
        position += size
        assert sum(map(len, ahead._ranges.values())) <= CACHE_BYTES
    assert sizes == sorted(sizes)
    assert sizes[-1] == MAX_FETCH_BYTES
    assert ahead.plan(position + 1, 1)[1] == 64 * 1024
