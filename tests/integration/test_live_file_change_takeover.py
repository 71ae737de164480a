"""Two publishers of one stream at the moment of a change of files: one wins, and the bytes of the other one end in front of its."""

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial

import httpx
import pytest

from services.common.store.limits import BLOCK_SIZE
from tests.support.fragmented_mp4 import fragment, init
from tests.support.hls_rules import check_playlist
from tests.support.live_changes import ACQUIRE, FIRST, SECOND, STEPS, Pair, held_change, held_request, status_of
from tests.support.live_client import LiveClient, make_stream, media_of, read_file, read_list
from tests.support.opened_stores import with_stores
from tests.support.waiting import eventually

THIRD = init(size=(320, 180)) + fragment(0, 2, fill=301) + fragment(2, 2, fill=302)
SAME = init(size=(90, 160)) + fragment(0, 2, fill=401) + fragment(2, 2, fill=402)
"""With the description of SECOND."""
ROUNDS = 12
TAKEN, LOST = 204, {409, 410}


def payloads(media: bytes) -> list[int]:
    """The sizes of what is in each fragment: those of one publisher are of no other one."""
    found, at = [], 0
    while at < len(media):
        size = int.from_bytes(media[at : at + 4], "big")
        if media[at + 4 : at + 8] == b"mdat":
            found.append(size)
        at += size
    assert at == len(media)
    return found


def check_whole(pair: Pair, client: LiveClient, taken: list[bytes], lost: list[bytes]) -> None:
    """What was taken is whole, what was lost ends in front of it, and the list has exactly the bytes of the files."""
    described = client.end()
    media = [read_file(pair.library, client, file["filename"])[BLOCK_SIZE:] for file in described["files"]]
    assert len({file["filename"] for file in described["files"]}) == len(media)
    found = [size for one in media for size in payloads(one)]
    first = payloads(media_of(FIRST))
    assert media[0][: len(media_of(FIRST))] == media_of(FIRST)
    assert found[: len(first)] == first
    rest, possible = found[len(first) :], [payloads(media_of(one)) for one in (*taken, *lost)]
    if lost:
        (winner, loser) = possible
        assert rest in [[*loser[:count], *winner] for count in range(len(loser) + 1)]
    else:
        assert rest in [[*possible[0], *possible[1]], [*possible[1], *possible[0]]]
    eventually(lambda: "ENDLIST" in read_list(pair.library, client).text, 10, "the end is listed")
    entries = check_playlist(read_list(pair.library, client).text).entries
    assert len(entries) == described["segments"]
    root = f"{pair.library.url}/live/{client.id}/"
    listed = [httpx.get(root + entry.uri, timeout=30).raise_for_status().content for entry in entries]
    assert b"".join(listed) == b"".join(media)
    for service in (pair.held, pair.free, pair.library):
        assert "Traceback" not in service.log


def make_first(pair: Pair, *, takeover: bool) -> tuple[LiveClient, LiveClient]:
    """A stream with one description, as each of two publishers has it."""
    one = make_stream(pair.held, takeover=takeover)
    assert one.patch(0, FIRST).status_code == TAKEN
    return one, LiveClient(pair.free.url, one.made)


@with_stores(("gridfs-motor",))
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("sent", [THIRD, SAME], ids=["another description", "the same description"])
def test_a_second_publisher_takes_over_in_the_middle_of_a_change(pair: Pair, step: str, sent: bytes) -> None:
    """Rows 12 and 18: the first one's replica is held at a step until the second one has sent everything."""
    one, other = make_first(pair, takeover=True)
    with held_change(pair, step, lambda: one.patch(len(FIRST), SECOND)) as status:
        assert other.post(sent).status_code == TAKEN
    assert status.result(30) in LOST
    check_whole(pair, other, [sent], [SECOND])


@with_stores(("gridfs-motor",))
@pytest.mark.parametrize("step", STEPS)
def test_a_second_publisher_is_refused_in_the_middle_of_a_change(pair: Pair, step: str) -> None:
    """Rows 12 and 18, without takeover."""
    one, other = make_first(pair, takeover=False)
    with held_change(pair, step, lambda: one.patch(len(FIRST), SECOND)) as status:
        assert other.post(THIRD).status_code == 409
    assert status.result(30) == TAKEN
    check_whole(pair, other, [SECOND], [b""])


@contextlib.contextmanager
def endless_body(client: LiveClient) -> Iterator[Future[int]]:
    """Send a body, and run the block when its first bytes are stored. It ends after the block; yields the future of its status."""
    stored, go_on = client.get()["bytes"], threading.Event()

    def send() -> Iterator[bytes]:
        yield init() + fragment(0, 2)
        yield fragment(2, 2)
        assert go_on.wait(30)
        yield fragment(4, 2)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sending = pool.submit(status_of, partial(client.post, send()))
        try:
            eventually(lambda: client.get()["bytes"] > stored, 10, "the body has begun")
            yield sending
        finally:
            go_on.set()


@with_stores(("gridfs-motor",))
def test_a_request_that_goes_on_does_not_stop_a_body_that_has_begun(pair: Pair) -> None:
    """Row 18: it is held in front of its acquire, until the body has begun its source and has more to send."""
    one, other = make_first(pair, takeover=True)
    with contextlib.ExitStack() as body:
        with held_request(pair, ACQUIRE, lambda: one.patch(len(FIRST), fragment(4, 2))) as status:
            sending = body.enter_context(endless_body(other))
        assert status.result(30) == 409
    assert sending.result(30) == TAKEN


@with_stores(("gridfs-motor",))
@pytest.mark.parametrize("step", STEPS)
def test_a_request_that_has_lost_its_source_finishes_no_change(pair: Pair, step: str) -> None:
    """Rows 12 and 18: the second publisher's replica is held in a change of files when the first one sends on."""
    other, one = make_first(pair, takeover=True)
    with held_change(pair, step, lambda: other.post(SECOND)) as status:
        assert one.patch(len(FIRST), fragment(4, 2)).status_code == 409
    assert status.result(30) == TAKEN


@with_stores(("gridfs-motor",), ("files-postgresql",), ("files-sqlite",))
@pytest.mark.parametrize("places", ["one replica", "two replicas"])
def test_a_request_that_has_lost_its_source_does_not_stop_a_body(pair: Pair, places: str) -> None:
    """Row 18: a PATCH of the publisher that was fenced off arrives while the body of its successor is being received."""
    one, other = make_first(pair, takeover=True)
    with endless_body(one if places == "one replica" else other) as sending:
        assert one.patch(len(FIRST), fragment(4, 2)).status_code == 409
    assert sending.result(30) == TAKEN


def send_at_once(*calls: Callable[[], httpx.Response]) -> list[int]:
    """The statuses of requests that begin at the same time."""
    start = threading.Barrier(len(calls))

    def send(call: Callable[[], httpx.Response]) -> int:
        start.wait(10)
        return status_of(call)

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(send, calls))


def race(pair: Pair, first: LiveClient, second: LiveClient, sent: tuple[bytes, bytes], way: str) -> None:
    by_tus, by_body = partial(first.patch, len(FIRST), sent[0]), partial(first.post, sent[0])
    statuses = send_at_once(by_tus if way == "tus" else by_body, partial(second.post, sent[1]))
    assert set(statuses) <= {TAKEN, *LOST}
    taken = [data for data, status in zip(sent, statuses, strict=True) if status == TAKEN]
    lost = [data for data, status in zip(sent, statuses, strict=True) if status != TAKEN]
    assert taken
    check_whole(pair, second, taken, lost)


@with_stores(("gridfs-motor",), ("files-postgresql",), ("files-sqlite",))
@pytest.mark.parametrize("places", ["one replica", "two replicas"])
@pytest.mark.parametrize("way", ["tus", "body"])
def test_two_publishers_change_at_once(pair: Pair, places: str, way: str) -> None:
    """Rows 12 and 18: either of the two may come first."""
    for number in range(ROUNDS):
        first, second = make_first(pair, takeover=True)
        race(pair, first, first if places == "one replica" else second, (SECOND, (THIRD, SAME)[number % 2]), way)
