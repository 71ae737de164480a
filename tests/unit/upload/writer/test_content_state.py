"""Content states between requests: found by the number of their blocks, bounded in number and bytes."""

import hashlib

from services.upload.writer import rehash
from services.upload.writer.rehash import MAX_WAITING_BYTES, ContentState, ContentStateCache

OGG = b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead\1\1\0\0" + bytes(7)


def make_state(data: bytes) -> ContentState:
    state = ContentState()
    state.update(data)
    return state


def test_a_state_is_found_once_and_by_its_number_of_blocks() -> None:
    cache, state = ContentStateCache(), make_state(b"abc")
    cache.put("a", 1, state)
    assert cache.pop("a", 1) is state
    assert cache.pop("a", 1) is None
    cache.put("a", 1, state)
    assert cache.pop("a", 2) is None
    assert cache.pop("a", 1) is None
    cache.put("a", 3, None)
    assert cache.pop("a", 3) is None


def test_the_oldest_state_is_dropped() -> None:
    cache = ContentStateCache()
    for number in range(rehash.MAX_CONTENT_STATES + 1):
        cache.put(str(number), 1, make_state(b""))
    assert cache.pop("0", 1) is None
    assert cache.pop("1", 1) is not None


def test_waiting_bytes_are_bounded_and_the_hash_stays() -> None:
    cache = ContentStateCache()
    data = OGG + bytes(200 * 1024)
    states = [make_state(data) for _ in range(MAX_WAITING_BYTES // len(data) + 2)]
    for number, state in enumerate(states):
        cache.put(str(number), 1, state)
    assert sum(state.scanner.held_bytes for state in states) <= MAX_WAITING_BYTES
    last = cache.pop(str(len(states) - 1), 1)
    assert last is not None
    last.finish()
    assert (last.media_facts_json, last.hexdigest()) == (None, hashlib.sha256(data).hexdigest())
    assert cache.pop("0", 1) is states[0]
    cache.put("again", 1, make_state(data))
    kept = cache.pop("again", 1)
    assert kept is not None
    assert not kept.scanner.is_lossy


def test_finish_twice_is_once() -> None:
    state = make_state(b"text")
    assert (state.media_facts_json, state.is_finished) == (None, False)
    state.finish()
    state.finish()
    assert (state.media_facts_json, state.is_finished) == ("null", True)
