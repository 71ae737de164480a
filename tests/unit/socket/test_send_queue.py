"""services.socket.send_queue: order, conflation and bounds of the frames that wait for one client."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.socket.send_queue import MAX_QUEUED_BYTES, MAX_QUEUED_FRAMES, SendQueue


def drain_queue(outbox: SendQueue) -> Iterator[bytes]:
    while outbox:
        yield outbox.dequeue()


def test_send_queue_keeps_the_order() -> None:
    outbox = SendQueue()
    for text in (b"a", b"b", b"c"):
        assert outbox.enqueue(text)
    assert outbox.size_bytes == 3
    assert list(drain_queue(outbox)) == [b"a", b"b", b"c"]
    assert outbox.size_bytes == 0
    with pytest.raises(KeyError):
        outbox.dequeue()


def test_conflated_value_replaces_its_predecessor_at_the_end() -> None:
    outbox = SendQueue()
    for text, key in ((b"p1", "p"), (b"a", ""), (b"q1", "q"), (b"p2", "p"), (b"b", ""), (b"p3", "p")):
        assert outbox.enqueue(text, key)
    assert list(drain_queue(outbox)) == [b"a", b"q1", b"b", b"p3"]
    assert outbox.enqueue(b"p4", "p")
    outbox.clear()
    assert outbox.enqueue(b"p5", "p")
    assert list(drain_queue(outbox)) == [b"p5"]


def test_send_queue_bounds() -> None:
    outbox = SendQueue()
    assert not outbox.enqueue(b"x" * (MAX_QUEUED_BYTES + 1))
    assert outbox.enqueue(b"x" * MAX_QUEUED_BYTES)
    assert not outbox.enqueue(b"x")
    assert outbox.size_bytes == MAX_QUEUED_BYTES
    outbox.clear()
    assert all(outbox.enqueue(b"x") for _ in range(MAX_QUEUED_FRAMES))
    assert not outbox.enqueue(b"x")
    assert len(outbox) == MAX_QUEUED_FRAMES


def test_conflated_values_never_fill_the_queue() -> None:
    outbox = SendQueue()
    assert all(outbox.enqueue(b"x" * 1000, "progress") for _ in range(100_000))
    assert len(outbox) == 1


@given(st.lists(st.tuples(st.integers(1, 2000), st.sampled_from(["", "", "p", "q"]), st.booleans()), max_size=400))
def test_send_queue_matches_a_list_model(steps: list[tuple[int, str, bool]]) -> None:
    outbox = SendQueue()
    model: list[tuple[bytes, str]] = []
    for number, (size, key, take) in enumerate(steps):
        if take and model:
            assert outbox.dequeue() == model.pop(0)[0]
        frame = bytes([number % 256]) * size
        kept = [one for one in model if not key or one[1] != key]
        accepted = len(kept) < MAX_QUEUED_FRAMES and sum(len(one[0]) for one in kept) + size <= MAX_QUEUED_BYTES
        assert outbox.enqueue(frame, key) == accepted
        model = [*kept, (frame, key)] if accepted else kept
        assert len(outbox) == len(model)
        assert outbox.size_bytes == sum(len(one[0]) for one in model)
