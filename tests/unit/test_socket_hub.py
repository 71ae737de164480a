"""The hub, the outbox and the bucket: who gets what, in which order, and how much may wait."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.socket.buckets import Bucket
from services.socket.hub import MAX_AWAITED, MAX_HELD, MAX_HELD_BYTES, Hub, Message, Peer
from services.socket.outbox import MAX_BYTES, MAX_FRAMES, Outbox


class Paper:
    """A Sink that writes down what it is given."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.closed: tuple[int, str] | None = None
        self.put = self.frames.append

    def write(self, frame: bytes, key: str = "") -> None:
        del key
        self.frames.append(frame)

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)


def peer(hub: Hub, sid: str, *topics: str, ready: bool = True) -> tuple[Peer, Paper]:
    paper = Paper()
    made = Peer(sid, f"secret of {sid}", paper)
    made.topics = dict.fromkeys(topics, 0)
    hub.connect(made)
    if ready:
        made.release()
    return made, paper


def message(number: int) -> Message:
    return Message(number, str(number).encode())


def test_one_a_topic_all() -> None:
    hub = Hub()
    (_, a), (_, b), (_, c) = peer(hub, "a", "x"), peer(hub, "b", "x", "y"), peer(hub, "c")
    hub.deliver("sid", "a", message(1))
    hub.deliver("topic", "x", message(2))
    hub.deliver("topic", "y", message(3))
    hub.deliver("all", "", message(4))
    hub.deliver("sid", "nobody", message(5))
    hub.deliver("topic", "nothing", message(6))
    assert (a.frames, b.frames, c.frames) == ([b"1", b"2", b"4"], [b"2", b"3", b"4"], [b"4"])


def test_find_disconnect_and_what_is_left() -> None:
    hub = Hub()
    first, paper = peer(hub, "a", "x")
    assert hub.find("a") is first
    assert hub.disconnect(first)
    assert not hub.disconnect(first)
    assert hub.find("a") is None
    assert hub.topics == {}
    hub.deliver("all", "", message(1))
    assert paper.frames == []
    assert hub.peers == {}


def test_who_comes_back_takes_the_place() -> None:
    hub = Hub()
    old, old_paper = peer(hub, "a", "x")
    new = Peer("a", "another secret", Paper())
    new.topics = {"x": 0}
    assert hub.connect(new) is old
    assert not hub.disconnect(old)
    assert hub.find("a") is new
    new.release()
    hub.deliver("topic", "x", message(1))
    assert old_paper.frames == []
    assert new.position == 1


def test_join_and_part() -> None:
    hub = Hub()
    one, paper = peer(hub, "a")
    hub.join(one, "x", 0)
    hub.deliver("topic", "x", message(1))
    hub.part(one, "x")
    hub.part(one, "x")
    hub.deliver("topic", "x", message(2))
    assert paper.frames == [b"1"]
    assert hub.topics == {}
    hub.disconnect(one)
    hub.join(one, "x", 0)
    assert hub.topics == {}, "who is not here joins nothing"


def test_no_event_twice_and_none_out_of_order() -> None:
    hub = Hub()
    _, paper = peer(hub, "a")
    for number in (1, 2, 2, 1, 5, 4, 6):
        hub.deliver("all", "", message(number))
    assert paper.frames == [b"1", b"2", b"5", b"6"]


def test_what_comes_during_a_replay_waits_for_its_end() -> None:
    hub = Hub()
    one, paper = peer(hub, "a", ready=False)
    one.position = 3
    for number in (2, 5, 6, 7):
        hub.deliver("all", "", message(number))
    assert paper.frames == []
    assert hub.ready() == []
    for number in (4, 5):
        one.replay(message(number))
    one.release()
    hub.deliver("sid", "a", message(8))
    assert paper.frames == [b"4", b"5", b"6", b"7", b"8"]
    assert hub.ready() == [one]


def test_a_replay_that_never_ends_is_closed() -> None:
    hub = Hub()
    one, paper = peer(hub, "a", ready=False)
    for number in range(MAX_HELD):
        one.take(message(number + 1))
    assert paper.closed is None
    one.take(message(MAX_HELD + 1))
    assert paper.closed == (1013, "too slow")


def test_a_replay_holds_so_many_bytes() -> None:
    hub = Hub()
    one, paper = peer(hub, "a", ready=False)
    for number in range(16):
        one.take(Message(number + 1, bytes(MAX_HELD_BYTES // 16)))
    assert paper.closed is None
    one.take(message(17))
    assert paper.closed == (1013, "too slow")


def test_acks_are_awaited_of_who_was_asked() -> None:
    hub = Hub()
    one, _ = peer(hub, "a")
    for number in range(1, MAX_AWAITED + 3):
        hub.deliver("sid", "a", Message(number, b"", "", "channel", f"id-{number}"))
    assert len(one.awaited) == MAX_AWAITED
    assert "id-1" not in one.awaited
    assert one.awaited[f"id-{MAX_AWAITED + 2}"] == "channel"


def taken(outbox: Outbox) -> Iterator[bytes]:
    while outbox:
        yield outbox.take()


def test_the_outbox_keeps_the_order() -> None:
    outbox = Outbox()
    for text in (b"a", b"b", b"c"):
        assert outbox.offer(text)
    assert outbox.size == 3
    assert list(taken(outbox)) == [b"a", b"b", b"c"]
    assert outbox.size == 0
    with pytest.raises(KeyError):
        outbox.take()


def test_a_last_value_takes_its_predecessors_place_at_the_end() -> None:
    outbox = Outbox()
    for text, key in ((b"p1", "p"), (b"a", ""), (b"q1", "q"), (b"p2", "p"), (b"b", ""), (b"p3", "p")):
        assert outbox.offer(text, key)
    assert list(taken(outbox)) == [b"a", b"q1", b"b", b"p3"]
    assert outbox.offer(b"p4", "p")
    outbox.clear()
    assert outbox.offer(b"p5", "p")
    assert list(taken(outbox)) == [b"p5"]


def test_bounds() -> None:
    outbox = Outbox()
    assert not outbox.offer(b"x" * (MAX_BYTES + 1))
    assert outbox.offer(b"x" * MAX_BYTES)
    assert not outbox.offer(b"x")
    assert outbox.size == MAX_BYTES
    outbox.clear()
    assert all(outbox.offer(b"x") for _ in range(MAX_FRAMES))
    assert not outbox.offer(b"x")
    assert len(outbox) == MAX_FRAMES


def test_last_values_alone_never_fill_it() -> None:
    outbox = Outbox()
    assert all(outbox.offer(b"x" * 1000, "progress") for _ in range(100_000))
    assert len(outbox) == 1


@given(st.lists(st.tuples(st.integers(1, 2000), st.sampled_from(["", "", "p", "q"]), st.booleans()), max_size=400))
def test_the_outbox_against_a_list(steps: list[tuple[int, str, bool]]) -> None:
    outbox = Outbox()
    model: list[tuple[bytes, str]] = []
    for number, (size, key, take) in enumerate(steps):
        if take and model:
            assert outbox.take() == model.pop(0)[0]
        frame = bytes([number % 256]) * size
        kept = [one for one in model if not key or one[1] != key]
        accepted = len(kept) < MAX_FRAMES and sum(len(one[0]) for one in kept) + size <= MAX_BYTES
        assert outbox.offer(frame, key) == accepted
        model = [*kept, (frame, key)] if accepted else kept
        assert len(outbox) == len(model)
        assert outbox.size == sum(len(one[0]) for one in model)


def test_a_bucket() -> None:
    bucket = Bucket(10, 20, now=100.0)
    assert all(bucket.take(100.0) for _ in range(20))
    assert not bucket.take(100.0)
    assert bucket.take(100.125)
    assert not bucket.take(100.125)
    assert bucket.take(200.0, 20)
    assert not bucket.take(200.0)
    assert not bucket.take(201.0, 11)
    assert bucket.take(201.0, 10)


def test_everyone_gets_all_of_theirs_in_order() -> None:
    """1,000 random deliveries to 20 peers that come, go, join and part, against a list for each."""
    chance = random.Random(7)
    hub = Hub()
    here: dict[str, tuple[Peer, Paper, list[bytes]]] = {}
    for number in range(1, 1001):
        sid = f"s{chance.randrange(20)}"
        if sid not in here:
            made, paper = peer(hub, sid)
            here[sid] = (made, paper, [])
        elif chance.random() < 0.1:
            hub.disconnect(here.pop(sid)[0])
            continue
        made, _, _ = here[sid]
        topic = f"t{chance.randrange(5)}"
        if chance.random() < 0.5:
            hub.join(made, topic, number)
        else:
            hub.part(made, topic)
        kind, name = chance.choice([("sid", sid), ("topic", topic), ("all", "")])
        for key, (other, _, expected) in here.items():
            if kind == "all" or (kind == "sid" and key == name) or (kind == "topic" and name in other.topics):
                expected.append(str(number).encode())
        hub.deliver(kind, name, message(number))
        assert all(paper.frames == expected for _, paper, expected in here.values())
