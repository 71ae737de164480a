"""The contract of `LiveStore`: the same tests for every store, on real databases."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.common.errors import Conflict, Gone
from services.common.live.segments import Epoch, Segment
from services.common.media import MediaName
from services.common.store.live_store import (
    DELETED,
    MAX_EPOCHS,
    MAX_INIT_BYTES_IN_ALL,
    MAX_PENDING_BYTES,
    MAX_SEGMENTS_READ,
    LivePosition,
    LiveProgress,
    LiveState,
    LiveStream,
    NewRecording,
    Recording,
    TooManyEpochs,
)
from services.common.store.upload_store import NewUpload, OutboxEvent, UploadHandle
from tests.support.live_streams import a_stream, begin_stream, epoch, progress, segment
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_adapters import NAME, StoreAdapters, finished_upload

pytestmark = pytest.mark.anyio

ODD = '$owner \0 \u00e9\u200b "\\ {"$set":1}'
"""Text is text: no field path, no expression, and no character that a database refuses."""


async def stored(adapters: StoreAdapters, stream_id: str = "s") -> LiveStream:
    found = await adapters.live.get_stream(stream_id)
    assert found is not None
    return found


async def test_a_stream_is_as_it_was_created(adapters: StoreAdapters) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload(None, 60, owner=ODD))
    stream = a_stream(upload, title=ODD, window=600, takeover=True, grace=0.25, limits_json=ODD, token_sha256="ab" * 32)
    before = datetime.now(UTC)
    await adapters.live.create_stream(stream)
    found = await stored(adapters)
    assert found.new == stream
    assert (found.state, found.reason, found.publisher, found.fencing_token) == ("waiting", "", "", 0)
    assert (found.position, found.epochs) == (LivePosition(CHUNK_SIZE), ())
    assert (found.started_at, found.advanced_at, found.ended_at, found.revision) == (None, None, None, None)
    assert abs(found.created_at - before) < timedelta(seconds=30)
    assert found.file_id == upload.store_key
    assert await adapters.live.read_pending("s") == b""
    assert await adapters.live.get_stream("other") is None
    assert await adapters.live.read_pending("other") == b""
    assert not await adapters.live.read_segments("s", 0)
    with pytest.raises(ValueError, match="taken"):
        await adapters.live.create_stream(replace(stream, title="another"))
    assert (await stored(adapters)).new.title == ODD


async def test_a_stream_needs_its_upload(adapters: StoreAdapters) -> None:
    upload = await adapters.store.create_upload(NAME, NewUpload(None, 60))
    guessed = f"{upload.upload_id.rpartition('-')[0]}-{'0' * 32}"
    for upload_id in ("nothing", guessed, f"{'0' * 24}-{'0' * 24}-{'0' * 32}"):
        with pytest.raises(Gone):
            await adapters.live.create_stream(a_stream(replace(upload, upload_id=upload_id)))
    await adapters.store.abort(upload)
    with pytest.raises(Gone):
        await adapters.live.create_stream(a_stream(upload))
    assert adapters.inspector.count_live() == (0, 0)


async def test_what_a_writer_adds_is_visible_as_a_whole(adapters: StoreAdapters) -> None:
    await begin_stream(adapters)
    live = adapters.live
    await live.advance("s", 1, progress(0, -1, pending=b"half a fragment"))
    waiting = await stored(adapters)
    assert (waiting.state, waiting.started_at) == ("waiting", None)
    assert waiting.advanced_at is not None
    assert await live.read_pending("s") == b"half a fragment"

    epochs = (epoch(0, os.urandom(900)), epoch(1))
    await live.advance("s", 1, progress(0, 2, epochs=epochs))
    found = await stored(adapters)
    assert (found.state, found.epochs) == ("live", epochs)
    assert found.position == progress(0, 2).position
    assert found.started_at is not None
    assert list(await live.read_segments("s", 0)) == [segment(0), segment(1), segment(2)]
    assert await live.read_pending("s") == b""

    opened = replace(progress(3, 4).position, open_segment=segment(5, epoch=2), source=3, dropped=4)
    more = LiveProgress(opened, [epoch(2)], [segment(3), segment(4)], os.urandom(MAX_PENDING_BYTES))
    await live.advance("s", 1, more)
    assert (await stored(adapters)).position == opened
    assert (await stored(adapters)).epochs == (*epochs, epoch(2))
    assert (await stored(adapters)).started_at == found.started_at
    assert await live.read_pending("s") == more.pending
    assert [each.number for each in await live.read_segments("s", 0)] == [0, 1, 2, 3, 4], "the open one is not there"


async def test_a_call_that_is_repeated_changes_nothing(adapters: StoreAdapters) -> None:
    await begin_stream(adapters)
    added = progress(0, 3, epochs=(epoch(0),), pending=b"p")
    for _ in range(3):
        await adapters.live.advance("s", 1, added)
    found = await stored(adapters)
    assert (found.epochs, found.position) == ((epoch(0),), added.position)
    assert list(await adapters.live.read_segments("s", 0)) == added.segments
    changed = progress(0, 4, epochs=(epoch(0, b"another"), epoch(1)), mark=1)
    await adapters.live.advance("s", 1, changed)
    assert (await stored(adapters)).epochs == (epoch(0), epoch(1)), "what is stored never changes"
    expected = [*added.segments, segment(4, mark=1)]
    assert list(await adapters.live.read_segments("s", 0)) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        progress(0, 1),
        progress(4, 5),
        replace(progress(3, 3), segments=[segment(3), segment(4)]),
        replace(progress(3, 4), segments=[segment(4), segment(3)]),
        replace(progress(3, 3), position=replace(progress(3, 3).position, offset=CHUNK_SIZE)),
        progress(3, 3, epochs=(epoch(2),)),
        progress(3, 3, epochs=(epoch(1), epoch(3))),
        progress(3, 3, pending=bytes(MAX_PENDING_BYTES + 1)),
    ],
    ids=["back", "gap", "more", "order", "offset", "epoch-gap", "epoch-order", "pending"],
)
async def test_what_does_not_go_on_behind_what_is_stored(adapters: StoreAdapters, wrong: LiveProgress) -> None:
    await begin_stream(adapters)
    await adapters.live.advance("s", 1, progress(0, 2, epochs=(epoch(0),), pending=b"p"))
    before = await stored(adapters)
    with pytest.raises(ValueError, match=r"stored|pending"):
        await adapters.live.advance("s", 1, wrong)
    assert await stored(adapters) == before
    assert await adapters.live.read_pending("s") == b"p"


async def test_an_older_writer_changes_nothing(adapters: StoreAdapters) -> None:
    await begin_stream(adapters)
    live = adapters.live
    await live.advance("s", 3, progress(0, 1, pending=b"p"))
    taken = await live.set_publisher("s", 5, ODD)
    assert (taken.publisher, taken.fencing_token, taken.position) == (ODD, 5, progress(0, 1).position)
    calls: Sequence[Callable[[int], Awaitable[object]]] = (
        lambda token: live.advance("s", token, progress(2, 2, epochs=(epoch(0),), mark=token)),
        lambda token: live.set_publisher("s", token, "late"),
        lambda token: live.set_state("s", token, "interrupted"),
        lambda token: live.set_state("s", token, "ended", "late"),
    )
    before = await stored(adapters)
    for call in calls:
        for token in (0, 4):
            with pytest.raises(Conflict):
                await call(token)
    assert await stored(adapters) == before
    assert await live.read_pending("s") == b"p"
    assert [each.number for each in await live.read_segments("s", 0)] == [0, 1]
    await live.advance("s", 5, progress(2, 2, epochs=(epoch(0),), mark=5))
    await live.advance("s", 6, progress(3, 3))
    with pytest.raises(Conflict):
        await live.advance("s", 5, progress(4, 4))
    assert (await live.read_segments("s", 2))[0] == segment(2, mark=5)


async def test_of_two_writers_at_the_same_time_the_newer_one_wins(adapters: StoreAdapters) -> None:
    await begin_stream(adapters)
    for number in range(10):
        token = 2 * number

        async def take_over(newer: int = token + 1, number: int = number) -> None:
            found = await adapters.live.set_publisher("s", newer, "newer")
            last = found.position.last_segment
            assert last in {number * 2 - 1, number * 2}
            await adapters.live.advance("s", newer, progress(last + 1, 2 * number + 1, mark=newer))

        late = adapters.live.advance("s", token, progress(2 * number, 2 * number, mark=token))
        older, newer = await asyncio.gather(late, take_over(), return_exceptions=True)
        assert newer is None
        assert older is None or isinstance(older, Conflict)
        found = await adapters.live.read_segments("s", 2 * number)
        winner = token if older is None else token + 1
        assert list(found) == [segment(2 * number, mark=winner), segment(2 * number + 1, mark=token + 1)]


async def test_reads_are_bounded(adapters: StoreAdapters) -> None:
    await begin_stream(adapters)
    await begin_stream(adapters, "other", MediaName("f", "other"))
    await adapters.live.advance("other", 1, progress(0, 9))
    count = MAX_SEGMENTS_READ + 10
    for first in range(0, count, 2505):
        await adapters.live.advance("s", 1, progress(first, first + 2504))
    found = await adapters.live.read_segments("s", 0, 2 * count)
    assert [each.number for each in found] == list(range(MAX_SEGMENTS_READ))
    rest = await adapters.live.read_segments("s", MAX_SEGMENTS_READ)
    assert [each.number for each in rest] == list(range(MAX_SEGMENTS_READ, count))
    assert [each.number for each in await adapters.live.read_segments("s", 7, 3)] == [7, 8, 9]
    for first, limit in ((count, 10), (0, 0), (0, -1)):
        assert not await adapters.live.read_segments("s", first, limit)
    assert (await adapters.live.read_segments("s", -5, 1))[0].number == 0
    assert not await adapters.live.read_segments("unknown", 0)


async def test_epochs_are_bounded(adapters: StoreAdapters) -> None:
    await begin_stream(adapters)
    live = adapters.live
    await live.advance("s", 1, progress(0, 0, epochs=tuple(map(epoch, range(MAX_EPOCHS)))))
    with pytest.raises(TooManyEpochs):
        await live.advance("s", 1, progress(1, 1, epochs=(epoch(MAX_EPOCHS),)))
    assert len((await stored(adapters)).epochs) == MAX_EPOCHS
    await live.advance("s", 1, progress(1, 1))

    await begin_stream(adapters, "large", MediaName("f", "large"))
    half = os.urandom(MAX_INIT_BYTES_IN_ALL // 2)
    await live.advance("large", 1, progress(0, 0, epochs=(epoch(0, half),)))
    with pytest.raises(TooManyEpochs):
        await live.advance("large", 1, progress(1, 1, epochs=(epoch(1, half + b"x"),)))
    await live.advance("large", 1, progress(1, 1, epochs=(epoch(1, half),)))
    assert [each.init for each in (await stored(adapters, "large")).epochs] == [half, half]


async def test_states(adapters: StoreAdapters) -> None:
    await begin_stream(adapters)
    live = adapters.live
    assert not await live.set_state("s", 1, "waiting")
    await live.advance("s", 1, progress(0, 0))
    assert await live.set_state("s", 1, "interrupted", ODD)
    assert not await live.set_state("s", 1, "interrupted", "again")
    found = await stored(adapters)
    assert (found.state, found.reason) == ("interrupted", ODD)
    await live.advance("s", 1, progress(1, 1, pending=b"p"))
    assert (await stored(adapters)).state == "live"
    assert await live.set_state("s", 2, "ended", "asked", 7)
    ended = await stored(adapters)
    assert (ended.state, ended.reason, ended.revision, ended.fencing_token) == ("ended", "asked", 7, 2)
    assert ended.ended_at is not None
    assert await live.read_pending("s") == b""
    assert not await live.set_state("s", 2, "ended", "again", 8)
    assert not await live.set_state("s", 2, "live")
    assert not await live.set_state("unknown", 2, "live")
    for call in (live.advance("s", 2, progress(2, 2)), live.set_publisher("s", 2, "x")):
        with pytest.raises(Gone):
            await call
    assert await stored(adapters) == ended
    assert [each.number for each in await live.read_segments("s", 0)] == [0, 1], "they stay"


async def test_a_deleted_stream(adapters: StoreAdapters) -> None:
    upload = await begin_stream(adapters)
    await begin_stream(adapters, "other", MediaName("f", "other"))
    live = adapters.live
    for stream_id in ("s", "other"):
        await live.advance(stream_id, 1, progress(0, 4, epochs=(epoch(0),), pending=b"p"))
    assert await live.delete_stream("s")
    assert not await live.delete_stream("s")
    assert await live.get_stream("s") is None
    assert not await live.read_segments("s", 0)
    assert await live.read_pending("s") == b""
    assert not await live.set_state("s", 9, "ended")
    for call in (live.advance("s", 9, progress(5, 5)), live.set_publisher("s", 9, "x")):
        with pytest.raises(Gone):
            await call
    assert [each.new.id for each in await live.list_streams()] == ["other"]
    assert adapters.inspector.count_live() == (1, 6)
    assert await adapters.store.get_info(upload.upload_id) is not None, "its upload stays"


async def test_lists_of_streams(adapters: StoreAdapters) -> None:
    live = adapters.live
    states: dict[str, LiveState] = {"a": "waiting", "b": "live", "c": "interrupted", "d": "ended", "e": "live"}
    for number, (stream_id, state) in enumerate(states.items()):
        owner = ODD if number % 2 else ""
        await begin_stream(adapters, stream_id, MediaName("f", stream_id), owner)
        if state != "waiting":
            await live.advance(stream_id, 1, progress(0, 0, epochs=(epoch(0),)))
            await live.set_state(stream_id, 1, state)

    async def ids(*states: LiveState, owner: str | None = None, after: str = "", limit: int = 100) -> str:
        found = await live.list_streams(states, owner=owner, after=after, limit=limit)
        assert all(not stream.epochs for stream in found)
        return "".join(stream.new.id for stream in found)

    assert await ids() == "abcde"
    assert await ids(after="b", limit=2) == "cd"
    assert await ids("live", "ended") == "bde"
    assert await ids(owner="") == "ace"
    assert await ids("live", "ended", owner=ODD) == "bd"
    assert await ids(owner="bob") == await ids(limit=0) == ""
    counts = [await live.count_streams(owner) for owner in ("", ODD, "bob")]
    assert counts == [3, 1, 0]


async def test_streams_that_have_not_ended_are_found_by_name(adapters: StoreAdapters) -> None:
    odd = '$f \u00e9 {"$set":1}'
    live, wanted = adapters.live, MediaName("f", odd)
    names = {"z": wanted, "folder": MediaName("", odd), "file": MediaName("f", "b"), "ended": wanted, "a": wanted}
    for stream_id, name in names.items():
        await begin_stream(adapters, stream_id, name)
        await asyncio.sleep(0.002)  # their order is that of the store's clock, in milliseconds
    assert await live.set_state("ended", 1, "ended")
    found = await live.find_unended(wanted)
    assert [stream.new.id for stream in found] == ["z", "a"]
    assert await live.delete_stream("z")
    assert [stream.new.id for stream in await live.find_unended(wanted)] == ["a"]
    assert not await live.find_unended(MediaName("f", "none"))


async def test_idle_streams_by_the_clock_of_the_store(adapters: StoreAdapters) -> None:
    live = adapters.live
    for stream_id in ("old", "older", "new"):
        await begin_stream(adapters, stream_id, MediaName("f", stream_id))
    await live.advance("older", 1, progress(0, 0, epochs=(epoch(0),)))
    adapters.inspector.age_streams(50)
    await live.advance("old", 1, progress(0, 0))
    adapters.inspector.age_streams(50)
    await live.advance("new", 1, progress(0, -1))

    async def idle(seconds: float, *states: LiveState, limit: int = 10) -> list[str]:
        return [each.new.id for each in await live.list_idle(states or ("waiting", "live"), seconds, limit)]

    assert await idle(0) == ["older", "old", "new"]
    assert await idle(0, limit=2) == ["older", "old"]
    assert await idle(0, limit=0) == []
    assert await idle(40) == ["older", "old"]
    assert await idle(75) == ["older"]
    assert await idle(150) == []
    assert await idle(0, "waiting") == ["new"]
    assert await idle(0, "interrupted", "ended") == []


async def test_a_late_call_of_the_same_writer(adapters: StoreAdapters) -> None:
    """One that was given up as without an answer, and is executed after the next one: what that has stored stays."""
    await begin_stream(adapters)
    late = adapters.open_live()  # its first call has the lowest step
    await adapters.live.advance("s", 1, progress(0, -1))
    await adapters.live.advance("s", 1, progress(0, 0, pending=b"newer"))
    with pytest.raises(Conflict):
        await late.advance("s", 1, progress(0, 0, pending=b"late"))
    assert await adapters.live.read_pending("s") == b"newer"


async def store_recording(adapters: StoreAdapters, upload: UploadHandle) -> int:
    """Commit the upload of a stream, and end the stream with its revision."""
    data = bytes(CHUNK_SIZE + 10)
    await adapters.live.advance("s", 1, progress(0, 2, epochs=(epoch(0),)))
    await adapters.store.write_blocks(upload, 0, [data[:CHUNK_SIZE], data[CHUNK_SIZE:]])
    event = await adapters.store.commit(upload, finished_upload(data))
    assert await adapters.live.set_state("s", 1, "ended", "asked", event.info.revision)
    return event.info.revision


async def test_the_file_of_a_stream_is_found_wherever_it_is(adapters: StoreAdapters) -> None:
    old, new, newest = MediaName("f", "old"), MediaName("g", "new"), MediaName("", "newest")
    await adapters.store_file(b"of another identity", old)
    assert await adapters.store.move_file(old, MediaName("f", "away")) is not None
    upload = await begin_stream(adapters, name=old)
    assert await adapters.live.find_file(await stored(adapters)) is None, "not committed"
    await store_recording(adapters, upload)
    found = await adapters.live.find_file(await stored(adapters))
    assert found is not None
    assert (MediaName(found.folder, found.filename), found.file_id) == (old, (await stored(adapters)).file_id)
    for source, target in ((old, new), (new, newest)):
        assert await adapters.store.move_file(source, target) is not None
        await adapters.store_file(b"in its place", source)
        moved = await adapters.live.find_file(await stored(adapters))
        assert moved is not None
        assert (MediaName(moved.folder, moved.filename), moved.id, moved.file_id) == (target, found.id, found.file_id)
    await adapters.store_file(b"instead", newest)
    assert await adapters.live.find_file(await stored(adapters)) is None, "replaced"


@pytest.mark.parametrize("folder", ["f/g", ""])
async def test_a_file_that_got_another_name_at_its_end_is_found(adapters: StoreAdapters, folder: str) -> None:
    """Its name was taken meanwhile. A process that was killed before it has noted the end finds it as well."""
    taken, other = MediaName(folder, "a.mp4"), MediaName(folder, "a (2).mp4")
    upload = await begin_stream(adapters, name=taken)
    await adapters.live.advance("s", 1, progress(0, 2, epochs=(epoch(0),)))
    await adapters.store_file(b"another", taken)
    renamed = await adapters.store.assign_name(upload, other)
    await adapters.store.write_blocks(renamed, 0, [b"x"])
    event = await adapters.store.commit(renamed, finished_upload(b"x"))
    assert await adapters.live.find_file(await stored(adapters)) == event.info
    assert await adapters.live.set_state("s", 1, "ended", "", event.info.revision)
    assert await adapters.live.find_file(await stored(adapters)) == event.info
    away = MediaName("h", "away")
    assert await adapters.store.move_file(other, away) is not None
    await adapters.store_file(b"in its place", other)
    moved = await adapters.live.find_file(await stored(adapters))
    assert moved is not None
    assert (MediaName(moved.folder, moved.filename), moved.id) == (away, event.info.id)
    await adapters.store.delete(other)
    assert await adapters.store.move_file(away, other) is not None
    back = await adapters.live.find_file(await stored(adapters))
    assert back is not None
    assert (MediaName(back.folder, back.filename), back.id) == (other, event.info.id)


async def test_a_stream_leaves_with_the_bytes_of_its_file(adapters: StoreAdapters) -> None:
    upload = await begin_stream(adapters)
    await store_recording(adapters, upload)
    await adapters.keeper.delete_orphans()
    for _ in range(2):
        await adapters.collect_until_done(adapters.inspector)
    assert adapters.inspector.count_live() == (1, 4)
    await adapters.store.delete(NAME)
    found = await stored(adapters)
    assert await adapters.live.find_file(found) is None
    assert (await adapters.store.restore(NAME)).info.file_id == found.file_id
    assert await adapters.live.find_file(found) is not None
    await adapters.store.delete(NAME)
    adapters.inspector.make_tombstones_due(NAME.filename)
    await adapters.collect_until_done(adapters.inspector)
    assert adapters.inspector.count_live() == (0, 0)


@pytest.mark.parametrize("expires", [False, True], ids=["aborted", "expired"])
async def test_segments_leave_with_the_upload_and_the_end_of_a_stream_can_be_told_for_a_day(
    adapters: StoreAdapters, expires: bool
) -> None:
    upload = await begin_stream(adapters)
    await begin_stream(adapters, "other", MediaName("f", "other"))
    for stream_id in ("s", "other"):
        await adapters.live.advance(stream_id, 1, progress(0, 2, epochs=(epoch(0),)))
    if expires:
        await adapters.store.release_lease(upload)
        adapters.inspector.age_streams(0)
        adapters.inspector.expire_uploads()
        await adapters.collect_until_done(adapters.inspector)
        assert adapters.inspector.count_live() == (2, 0)
    else:
        await adapters.store.abort(upload)
        assert adapters.inspector.count_live() == (2, 4)
    assert (await stored(adapters)).state == "live"
    assert not await adapters.live.read_segments("s", 0)
    assert await adapters.live.set_state("s", 2, "ended", "its upload is gone")
    await adapters.keeper.delete_orphans()
    assert (await stored(adapters)).reason == "its upload is gone"
    adapters.inspector.age_streams(86_400 + 10)
    await adapters.keeper.delete_orphans()
    assert await adapters.live.get_stream("s") is None
    assert adapters.inspector.count_live() == ((0, 0) if expires else (1, 4)), "one whose upload is there stays"


async def begin_second_file(adapters: StoreAdapters, first: UploadHandle) -> tuple[UploadHandle, OutboxEvent]:
    """Commit the upload of a stream that has three segments, and go on in another one, which is acquired once more."""
    live = adapters.live
    await live.advance("s", 4, progress(0, 2, epochs=(epoch(0), epoch(1)), pending=b"of the first"))
    await adapters.store.write_blocks(first, 0, [b"x"])
    event = await adapters.store.commit(first, finished_upload(b"x"))
    upload = await adapters.store.create_upload(OTHER, NewUpload(None, 60))
    new = NewRecording(upload.upload_id, event.info.revision, 6_000, 7.5, b"of the second", "tus/3")
    assert await live.begin_recording("s", 5, first.upload_id, new)
    assert not await live.begin_recording("s", 9, first.upload_id, new), "repeated"
    return upload, event


OTHER = MediaName("f", "other")


async def test_a_stream_goes_on_in_another_file(adapters: StoreAdapters) -> None:
    first, live = await begin_stream(adapters), adapters.live
    second, event = await begin_second_file(adapters, first)
    before, stream = (
        Recording(first.upload_id, event.info.file_id, 1, 2, 2, CHUNK_SIZE + 3000, 6_000, 7.5),
        await stored(adapters),
    )
    assert (stream.recordings, stream.new.upload_id, stream.file_id) == ((before,), second.upload_id, second.store_key)
    assert stream.position == LivePosition(CHUNK_SIZE, 102, 2)
    assert (stream.state, stream.publisher, stream.revision) == ("live", "tus/3", None)
    assert await live.read_pending("s") == b"of the second"
    assert [one.number for one in stream.epochs] == [0, 1]
    assert stream.last_epochs == ()
    for token in range(6):  # all that the first upload has given
        with pytest.raises(Conflict):
            await live.advance("s", token, progress(3, 3))
        with pytest.raises(Conflict):
            await live.set_publisher("s", token, "late")
        with pytest.raises(Conflict):
            await live.set_state("s", token, "ended", "late", 1)
    fence = stream.first_fence + second.fencing_token
    position = LivePosition(CHUNK_SIZE + 10, 200, 3, file_end=1000, timescale=1000)
    await live.advance("s", fence, LiveProgress(position, (epoch(2),), (segment(3, 2),)))
    stream = await stored(adapters)
    assert (stream.position, [one.number for one in stream.last_epochs]) == (position, [2])
    assert [one.number for one in await live.read_segments("s", 0)] == [0, 1, 2, 3]
    assert [stream.in_file_of(number).file_id for number in range(3)] == [before.file_id] * 2 + [stream.file_id]
    assert await live.find_file(stream) is None
    (earlier,) = stream.files
    assert await live.find_file(earlier) == event.info
    away = MediaName("g", "away")
    assert await adapters.store.move_file(NAME, away) is not None
    await adapters.store_file(b"in its place", NAME)
    moved = await live.find_file(earlier)
    assert moved is not None
    assert (moved.folder, moved.filename, moved.file_id) == ("g", "away", before.file_id)
    wanted = NewRecording(first.upload_id, 2, 0, 0.0, b"", "")
    with pytest.raises(Gone):
        await live.begin_recording("s", fence, second.upload_id, wanted)  # that upload is no more
    assert await live.set_state("s", fence, "ended", "the bytes of its last file are lost")
    stream = await stored(adapters)
    assert (stream.position.last_segment, len(stream.epochs), len(await live.read_segments("s", 0))) == (2, 2, 3)
    with pytest.raises(Gone):
        await live.begin_recording("s", fence, second.upload_id, wanted)


async def test_a_stream_that_has_nothing_of_its_last_file_ends_with_the_one_before(adapters: StoreAdapters) -> None:
    first, live = await begin_stream(adapters), adapters.live
    second, event = await begin_second_file(adapters, first)
    fence = (await stored(adapters)).first_fence + second.fencing_token
    assert await live.set_state("s", fence, "ended", "asked")
    await adapters.store.abort(second)
    stream = await stored(adapters)
    assert (stream.recordings, stream.revision, stream.file_id) == ((), 1, event.info.file_id)
    assert stream.position == LivePosition(CHUNK_SIZE + 3000, 102, 2, None, 6_000, 1_000)
    assert (stream.reason, stream.new.upload_id, await live.read_pending("s")) == ("asked", first.upload_id, b"")
    assert await live.find_file(stream) == event.info
    await adapters.keeper.delete_orphans()
    await adapters.collect_until_done(adapters.inspector)
    adapters.inspector.age_streams(86_400 + 10)
    await adapters.keeper.delete_orphans()
    assert adapters.inspector.count_live() == (1, 5), "it has a file"
    await adapters.store.delete(NAME)
    adapters.inspector.make_tombstones_due(NAME.filename)
    await adapters.collect_until_done(adapters.inspector)
    assert adapters.inspector.count_live() == (0, 0)


async def test_a_stream_stays_without_an_earlier_file_and_leaves_without_its_last(adapters: StoreAdapters) -> None:
    first, live = await begin_stream(adapters), adapters.live
    second, _ = await begin_second_file(adapters, first)
    await adapters.store.write_blocks(second, 0, [b"x"])
    event = await adapters.store.commit(second, finished_upload(b"x"))
    await adapters.store.delete(NAME)
    adapters.inspector.make_tombstones_due(NAME.filename)
    await adapters.collect_until_done(adapters.inspector)
    stream = await stored(adapters)
    assert (stream.state, await live.find_file(stream.files[0])) == ("live", None)
    assert adapters.inspector.count_live() == (1, 5)
    assert await live.set_state("s", stream.first_fence + 1, "ended", "", event.info.revision)
    await adapters.store.delete(OTHER)
    adapters.inspector.make_tombstones_due(OTHER.filename)
    await adapters.collect_until_done(adapters.inspector)
    assert adapters.inspector.count_live() == (0, 0)


async def test_a_stream_that_is_thrown_away_has_no_file(adapters: StoreAdapters) -> None:
    second, _ = await begin_second_file(adapters, await begin_stream(adapters))
    fence = (await stored(adapters)).first_fence + second.fencing_token
    await adapters.store.abort(second)
    assert await adapters.live.set_state("s", fence, "ended", DELETED)
    assert (await stored(adapters)).was_deleted


@pytest.mark.parametrize("seed", range(2))
async def test_random_calls_of_several_writers_match_a_model(adapters: StoreAdapters, seed: int) -> None:
    """Any order of calls, by writers of which each has acquired the stream once; the model is what the port says."""
    dice = random.Random(seed)
    await begin_stream(adapters)
    live, fence, state = adapters.live, 0, "waiting"
    segments: list[Segment] = []
    epochs: list[Epoch] = []
    pending = b""
    for step in range(60):
        token = max(0, fence + dice.choice((-1, 0, 0, 0, 1)))
        expected = Conflict if token < fence else None
        outcome: Awaitable[object]
        call = dice.choice(("advance", "advance", "advance", "advance", "publisher", "state"))
        if call == "advance":
            repeated = dice.randrange(3)
            first, last = max(0, len(segments) - repeated), len(segments) - 1 + dice.randrange(3)
            more = (epoch(len(epochs)),) if dice.randrange(4) == 0 else ()
            added = progress(first, last, epochs=more, pending=b"%d" % step, mark=step)
            outcome = live.advance("s", token, added)
            if expected is None:
                segments += [each for each in added.segments if each.number >= len(segments)]
                epochs += more
                pending = added.pending
                state = "live" if segments else state
        elif call == "publisher":
            outcome = live.set_publisher("s", token, f"{step}")
        else:
            chosen: LiveState = dice.choice(("live", "interrupted", "waiting"))
            outcome = live.set_state("s", token, chosen)
            if expected is None and state == chosen:
                token = fence  # nothing is changed
            state = state if expected else chosen
        if expected is None:
            await outcome
            fence = max(fence, token)
        else:
            with pytest.raises(expected):
                await outcome
        found = await stored(adapters)
        assert (found.fencing_token, found.state, list(found.epochs)) == (fence, state, epochs), (step, call)
        assert found.position.last_segment == len(segments) - 1
        assert await live.read_pending("s") == pending
        first = dice.randrange(len(segments) + 1)
        assert list(await live.read_segments("s", first, 5)) == segments[first : first + 5]
