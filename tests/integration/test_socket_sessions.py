"""The parts of the socket service that share Redis, composed in this process: acquiring sessions, refreshes, and interleavings."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from gridcast._bus.events import StreamPosition
from gridcast._bus.keys import SEQUENCE_KEY, history_key, session_key
from gridcast._bus.lua_script import LuaScript
from services.common.bus.publisher import EventPublisher
from services.common.bus.redis import RedisClient
from services.common.errors import BadRequest, ServiceUnavailable
from services.socket.accept import AcceptedClient, Acceptor
from services.socket.broker import RedisBroker
from services.socket.handler import WebSocketHandler
from services.socket.handshake import ConnectRequest
from services.socket.history import History, HistoryPage, HistoryQuery
from services.socket.hub import GAP_PREFIX, Hub, SocketClient
from services.socket.presence import PresenceManager, _session_record
from services.socket.scripts import ACQUIRE_SESSIONS, READ_HISTORY
from services.socket.sessions import RESUME_WINDOW_SECONDS, SessionStore, hash_secret
from services.socket.settings import SocketSettings
from services.socket.socket_auth import SocketAuth, new_sid
from tests.support.recording_sink import RecordingSink
from tests.support.waiting import eventually_async

pytestmark = pytest.mark.anyio


@dataclass
class InProcessReplica:
    """A replica without its HTTP server."""

    push: EventPublisher
    hub: Hub
    directory: SessionStore
    attendance: PresenceManager
    delivery: RedisBroker

    async def add_client(self, sid: str, presented: str = "") -> tuple[SocketClient, RecordingSink]:
        """Add a client that is ready; its secret contains the number of its connection."""
        paper = RecordingSink()
        peer = SocketClient(sid, f"{presented}+", paper)
        claim = await self.directory.acquire(sid, presented, peer.secret_hash, "", ())
        assert claim is not None
        peer.position, peer.confirmed_position, peer.connected_at = (
            claim.offset,
            f"{claim.epoch}-{claim.offset}",
            claim.connected_at,
        )
        peer.claim, peer.welcomed = claim.claim, True
        self.hub.add(peer)
        peer.flush_replay_buffer()
        return peer, paper

    async def count_script_calls(self) -> int:
        """The number of scripts that Redis has run."""
        said = await self.push.redis.execute("INFO", "commandstats")
        return sum(said.get(name, {"calls": 0})["calls"] for name in ("cmdstat_eval", "cmdstat_evalsha"))

    async def count_listed_sids(self) -> int:
        return int(await self.push.redis.execute("ZCARD", "gridcast:sids"))


@pytest.fixture
async def replica(redis_url: str) -> AsyncIterator[InProcessReplica]:
    hub = Hub()
    async with EventPublisher.from_url(redis_url, "/socket") as push:
        directory = SessionStore(push.redis, "node", 3)
        attendance = PresenceManager(hub, directory)
        delivery = RedisBroker(push.redis, hub, directory, History(push.redis), attendance)
        delivery.start()
        await eventually_async(lambda: now(delivery.live))
        yield InProcessReplica(push, hub, directory, attendance, delivery)
        await delivery.aclose()
        await directory.aclose()
        await attendance.aclose()


async def now(value: Any) -> Any:
    return value


async def test_concurrent_acquires_are_batched_and_get_their_own_replies(replica: InProcessReplica) -> None:
    claim = replica.directory.acquire
    known, other = new_sid(), new_sid()
    await claim(known, "", "first", '{"n":1}', ("a",))
    await claim(other, "", "first", "", ())
    before = await replica.count_script_calls()
    fresh = [claim(new_sid(), "", f"{n}", "", ("a", f"t{n}")) for n in range(200)]
    special = [
        claim(known, "first", "second", "", ("b",)),
        claim(other, "wrong", "second", "", ()),
        claim(new_sid(), "x", "y", "", ()),
        claim(other, "first", "second", "", ("a", "b", "c", "d")),
        claim(other, "first", "third", "", ()),
    ]
    answers = await asyncio.gather(*fresh[:100], *special, *fresh[100:], return_exceptions=True)
    assert await replica.count_script_calls() - before <= 8
    epoch, number = replica.delivery.epoch, 0
    found = [answer for answer in answers if not isinstance(answer, BaseException)]
    back, wrong, unknown, last = found[100:104]
    assert back is not None
    assert (back.epoch, back.offset, back.meta) == (epoch, number, '{"n":1}')
    assert (back.topics, back.stored_position) == ({"a": 0, "b": 0}, f"{epoch}-0")
    assert (wrong, unknown) == (None, None)
    assert last is not None
    assert last.topics == {}, "a refused wish changes nothing and costs no secret"
    (refused,) = [answer for answer in answers if isinstance(answer, BaseException)]
    assert isinstance(refused, BadRequest)
    topics = Counter(topic for one in found[:100] if one is not None for topic in one.topics)
    assert topics["a"] == 100
    assert len(topics) == 101
    assert await replica.count_listed_sids() == 202


async def test_expired_sessions_leave_the_session_list(replica: InProcessReplica) -> None:
    sids = sorted([new_sid() for _ in range(25)])
    for sid in sids:
        await replica.directory.acquire(sid, "", "secret", "", ())
    for sid in sids[::2]:
        await replica.push.redis.execute("DEL", f"gridcast:sid:{sid}")
    places = [""]
    while len(places) == 1 or places[-1]:
        places.append(await replica.directory.prune_expired(places[-1], 10))
    assert places == ["", sids[9], sids[19], ""]
    assert await replica.count_listed_sids() == 12


async def test_client_resuming_here_during_a_refresh_stays_online(replica: InProcessReplica) -> None:
    """The running refresh has the previous connection: its sid has moved, and is still on this replica."""
    sid = new_sid()
    before, _ = await replica.add_client(sid)
    claim = await replica.directory.acquire(sid, before.secret_hash, "new", "", ())
    assert claim is not None
    refreshing = asyncio.create_task(replica.attendance.refresh([before]))
    await asyncio.sleep(0)
    paper = RecordingSink()
    peer = SocketClient(sid, "new", paper)
    replica.hub.add(peer)
    peer.flush_replay_buffer()
    await refreshing
    assert (replica.hub.find(sid), paper.closed) == (peer, None)


async def test_session_resumed_elsewhere_is_found_by_the_next_refresh(replica: InProcessReplica) -> None:
    """Where the other replica's message came before the client was added here."""
    sid = new_sid()
    peer, paper = await replica.add_client(sid)
    other = SessionStore(replica.push.redis, "other", 3)
    replica.hub.remove(peer)  # so that the control message finds no client
    assert await other.acquire(sid, peer.secret_hash, "new", "", ()) is not None
    await other.aclose()
    await replica.delivery._subscription.barrier()
    replica.hub.add(peer)
    closed_before_the_refresh = paper.closed
    assert closed_before_the_refresh is None
    replica.attendance.schedule_recheck(peer)
    await replica.attendance.tick(refresh_all=False, prune=True)
    assert paper.closed == (1008, "session resumed elsewhere")
    assert replica.hub.find(sid) is None


async def test_late_takeover_notice_does_not_beat_a_newer_claim(replica: InProcessReplica) -> None:
    """Another replica acquires the session, this one acquires it again, and only then the notice of the first arrives."""
    sid = new_sid()
    before, _ = await replica.add_client(sid)
    other = SessionStore(replica.push.redis, "other", 3)
    taken = await other.acquire(sid, before.secret_hash, "taken", "", ())
    assert taken is not None
    newest, paper = await replica.add_client(sid, "taken")
    assert newest.claim > taken.claim > before.claim
    notice = {"type": "moved", "sid": sid, "secret": "taken", "claim": taken.claim}
    replica.delivery._on_message(b"", json.dumps(notice).encode())
    assert paper.closed is None
    assert replica.hub.find(sid) is newest
    replica.delivery._on_message(b"", json.dumps({**notice, "claim": newest.claim + 1}).encode())
    assert replica.hub.find(sid) is None


async def test_closed_client_is_marked_away_even_where_nobody_took_over(replica: InProcessReplica) -> None:
    """A notice that closes the holder by mistake (from an earlier version, without a claim) leaves no sid online."""
    sid = new_sid()
    peer, paper = await replica.add_client(sid)
    replica.delivery._on_message(b"", json.dumps({"type": "moved", "sid": sid, "secret": "another"}).encode())
    assert paper.closed is not None
    replica.attendance.mark_away(peer)

    async def is_away() -> bool:
        presence = await replica.directory.find(sid)
        return presence is not None and not presence.online

    await eventually_async(is_away)


async def test_record_of_an_earlier_claim_is_restored(replica: InProcessReplica) -> None:
    """Redis restarts from a snapshot that is older than the last resume: the connection that holds the session keeps it."""
    sid = new_sid()
    before, _ = await replica.add_client(sid)
    record = await replica.push.redis.execute("DUMP", session_key(sid))
    back, paper = await replica.add_client(sid, before.secret_hash)
    await replica.push.redis.execute("RESTORE", session_key(sid), 0, record, "REPLACE")
    await replica.attendance.refresh([back])
    assert paper.closed is None
    assert await replica.push.redis.execute("HGET", session_key(sid), "resume") == back.secret_hash.encode()
    assert await replica.directory.refresh([_session_record(before)]) == ([sid], []), (
        "and the earlier one does not take it back"
    )


async def test_client_joining_during_a_redis_flush_is_resynced(
    replica: InProcessReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its replay ends after Redis was queried for its epoch, and before this replica has the reply."""
    peer, paper = await replica.add_client(new_sid())
    peer.replay_buffer = []
    ask = replica.directory.register_node

    async def adopt(server: str, *, again: bool) -> tuple[StreamPosition, int]:
        answer = await ask(server, again=again)
        peer.flush_replay_buffer()
        return answer

    monkeypatch.setattr(replica.directory, "register_node", adopt)
    await replica.push.broadcast("t", 1)
    await replica.push.redis.execute("FLUSHALL")
    await replica.push.redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually_async(lambda: now(any(b"socket.resync" in frame for frame in paper.frames)))
    await eventually_async(lambda: now(replica.delivery.live))
    await replica.push.broadcast("t", 2)
    await eventually_async(lambda: now(any(b'"data":2' in frame for frame in paper.frames)))


class StalledSink(RecordingSink):
    """A client whose replay is blocked until `release`."""

    def __init__(self) -> None:
        super().__init__()
        self.stalled, self.release = asyncio.Event(), asyncio.Event()
        self.closing = False

    async def drain(self) -> None:
        self.stalled.set()
        await self.release.wait()

    def ping_now(self) -> None:
        """Pings are not a matter of these tests."""


def make_handler_and_acceptor(replica: InProcessReplica) -> tuple[WebSocketHandler, Acceptor]:
    delivery, history = replica.delivery, replica.delivery._history
    parts = (SocketSettings(), replica.hub, replica.directory)
    entrance = Acceptor(*parts, history, delivery, replica.attendance, 20_000, SocketAuth(None))
    return WebSocketHandler(*parts, delivery, replica.attendance, entrance, SocketAuth(None)), entrance


async def test_no_position_is_sent_for_an_unknown_epoch(replica: InProcessReplica) -> None:
    """Redis was flushed a moment ago: `since` would name a position in no sequence."""
    sockets, _ = make_handler_and_acceptor(replica)
    peer, _ = await replica.add_client(new_sid())
    assert await sockets._subscribe(peer, "a") == f"{replica.delivery.epoch}-0"
    await replica.push.redis.execute("FLUSHALL")
    with pytest.raises(ServiceUnavailable):
        await sockets._subscribe(peer, "b")
    assert (set(peer.topics), set(replica.hub.subscribers)) == ({"a"}, {"a"})


async def start_recovering_client(replica: InProcessReplica) -> tuple[SocketClient, StalledSink, asyncio.Task[None]]:
    """A client during a replay of one event."""
    delivery = replica.delivery
    sockets, entrance = make_handler_and_acceptor(replica)
    peer, _ = await replica.add_client(new_sid())
    client = StalledSink()
    peer.sink, peer.replay_buffer = client, []
    await replica.push.broadcast("t", 1)
    pages = entrance.read_missed(peer)
    entry = AcceptedClient(
        peer,
        "secret",
        recovered=True,
        epoch=delivery.epoch,
        generation=delivery.generation,
        first_page=await anext(pages),
        next_pages=pages,
    )
    task = asyncio.create_task(sockets._replay_missed(entry, client))  # type: ignore[arg-type]  # as much of a connection as it needs
    await client.stalled.wait()
    return peer, client, task


async def test_redis_is_flushed_during_a_replay(replica: InProcessReplica) -> None:
    """The position of the next event is lost: the socket is disconnected, and resumes."""
    peer, client, task = await start_recovering_client(replica)
    before = replica.delivery.epoch
    await replica.push.redis.execute("FLUSHALL")
    await replica.push.redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually_async(lambda: now(replica.delivery.live and replica.delivery.epoch != before))
    client.release.set()
    with pytest.raises(ServiceUnavailable, match="lost its data"):
        await task
    assert replica.hub.ready_clients() == []
    assert peer.replay_buffer is not None


async def test_subscription_is_lost_during_a_replay(replica: InProcessReplica) -> None:
    """Clients that are ready are caught up; this one reads its history again itself."""
    peer, client, task = await start_recovering_client(replica)
    lives = replica.delivery.generation
    await replica.push.redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
    await replica.push.broadcast("t", 2)
    await eventually_async(lambda: now(replica.delivery.live and replica.delivery.generation > lives))
    await replica.push.broadcast("t", 3)
    await replica.delivery._subscription.barrier()
    client.release.set()
    await task
    assert [frame[frame.index(b'"data":') + 7 : -1] for frame in client.frames] == [b"1", b"2", b"3"]
    assert replica.hub.ready_clients() == [peer]


async def test_replica_with_a_stale_subscription_resyncs(replica: InProcessReplica) -> None:
    """The process was paused: it has noticed no loss, and what it has missed may have expired."""
    peer, paper = await replica.add_client(new_sid())
    await replica.push.broadcast("t", 1, conflation_key=True)
    lives = replica.delivery.generation
    await replica.push.redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually_async(lambda: now(replica.delivery.generation > lives and replica.delivery.live))
    paper.frames.clear()
    assert not peer.confirmed_position.startswith(GAP_PREFIX)
    replica.delivery._last_contact_at -= RESUME_WINDOW_SECONDS + 5
    await replica.push.redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually_async(lambda: now(paper.frames))
    assert b"socket.resync" in paper.frames[0]
    assert peer.confirmed_position == f"{GAP_PREFIX}{replica.delivery.epoch}-1", "until it has answered a ping"


async def lose_data_and_push(replica: InProcessReplica) -> None:
    """Empty Redis, and push two events before the replica can have read that there is a new epoch."""
    before = replica.delivery.epoch
    await replica.push.redis.execute("FLUSHALL")
    await asyncio.gather(replica.push.broadcast("t", 2), replica.push.publish("news", "t", 3))
    await eventually_async(lambda: now(replica.delivery.live and replica.delivery.epoch != before))


async def test_events_of_an_emptied_redis_follow_the_resync(replica: InProcessReplica) -> None:
    """The old events that were on their way are lost; the histories of the new epoch are whole."""
    peer, paper = await replica.add_client(new_sid())
    await replica.delivery.subscribe_topic("news")
    replica.hub.subscribe(peer, "news", 0)
    await replica.push.broadcast("t", 1)
    await eventually_async(lambda: now(paper.frames))
    await lose_data_and_push(replica)
    await replica.push.broadcast("t", 4)
    await eventually_async(lambda: now(len(paper.frames) == 5))
    assert [b"socket.resync" in frame for frame in paper.frames] == [False, True, False, False, False]
    assert sorted(event_data(paper)[2:4]) == [b"2", b"3"]
    assert event_data(paper)[4] == b"4"
    epoch = replica.delivery.epoch
    assert f'"{epoch}-0"'.encode() in paper.frames[1], "a client that resumes from there misses none of them"
    assert peer.confirmed_position == f"{GAP_PREFIX}{epoch}-0"


async def test_a_new_epoch_is_not_read_after_a_long_absence(replica: InProcessReplica) -> None:
    """Its histories may have expired in part: clients get later events only."""
    _, paper = await replica.add_client(new_sid())
    before = replica.delivery.epoch
    async with replica.delivery._heartbeat_lock:  # the event comes before the replica has seen the new epoch
        await replica.push.redis.execute("FLUSHALL")
        replica.delivery._last_contact_at -= RESUME_WINDOW_SECONDS + 5
        await replica.push.broadcast("t", 2)
    await eventually_async(lambda: now(replica.delivery.live and replica.delivery.epoch != before))
    await replica.push.broadcast("t", 3)
    await eventually_async(lambda: now(len(paper.frames) == 2))
    assert b"socket.resync" in paper.frames[0]
    assert event_data(paper)[1] == b"3"


async def test_recovery_after_a_loss_goes_on_where_it_failed(
    replica: InProcessReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients are told of the loss once, and get each event once."""
    _, paper = await replica.add_client(new_sid())
    read_pages = replica.delivery._history.read_pages
    failures: list[HistoryPage] = []

    async def fail_behind_the_first_page(epoch: str, queries: Sequence[HistoryQuery]) -> AsyncIterator[HistoryPage]:
        async for page in read_pages(epoch, queries):
            yield page
            if not failures:
                failures.append(page)
                raise ServiceUnavailable("Redis is unavailable")

    monkeypatch.setattr(replica.delivery._history, "read_pages", fail_behind_the_first_page)
    await lose_data_and_push(replica)
    await replica.push.broadcast("t", 4)
    await eventually_async(lambda: now(b"4" in event_data(paper)))
    assert failures
    assert [b"socket.resync" in frame for frame in paper.frames] == [True, False, False]
    assert event_data(paper)[1:] == [b"2", b"4"]


async def read_history(replica: InProcessReplica, *queries: HistoryQuery) -> list[HistoryPage]:
    return [page async for page in replica.delivery._history.read_pages(replica.delivery.epoch, queries)]


@pytest.mark.parametrize("queries_per_call", [1, 2, 100])
async def test_history_is_read_in_bounded_pages(
    replica: InProcessReplica, monkeypatch: pytest.MonkeyPatch, queries_per_call: int
) -> None:
    """Whatever its size, every event comes once and in order, and no page is larger than its limit and one event for each call."""
    monkeypatch.setattr("services.socket.history.MAX_PAGE_BYTES", 30_000)
    monkeypatch.setattr("services.socket.history.QUERIES_PER_CALL", queries_per_call)
    topics = ("a", "b", "c", "none")
    published = []
    for number in range(150):
        topic = topics[number % 7 % 3]
        sent = await replica.push.publish(topic, "t", "x" * (3000 if number % 10 else 60_000))
        assert sent.sequence is not None
        published.append((topic, StreamPosition.from_string(sent.sequence).offset))
    pages = await read_history(replica, *(HistoryQuery("topic", name, 40) for name in topics))
    assert [(entry.name, entry.offset) for page in pages for entry in page.entries] == published[40:]
    assert all(page.incomplete == [] for page in pages)
    assert pages[-1].end_offset == 150
    assert max(sum(len(entry.event) for entry in page.entries) for page in pages) < 30_000 + 4 * 61_000


async def test_history_that_is_trimmed_between_pages_is_incomplete(
    replica: InProcessReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was incomplete before is reported once, and again where it loses more."""
    monkeypatch.setattr("services.socket.history.MAX_PAGE_BYTES", 3_000)
    for number in range(20):
        for topic in ("a", "b"):
            await replica.push.publish(topic, "t", f"{number}" * 500)
    keys = {topic: history_key(replica.delivery.epoch, "topic", topic) for topic in ("a", "b")}
    await replica.push.redis.execute("XTRIM", keys["b"], "MINID", "10-0")
    queries = [HistoryQuery("topic", topic, 0) for topic in ("a", "b")]
    reading = replica.delivery._history.read_pages(replica.delivery.epoch, queries)
    first, second = await anext(reading), await anext(reading)
    assert ([query.name for query in first.incomplete], second.incomplete) == (["b"], [])
    await replica.push.redis.execute("XTRIM", keys["a"], "MINID", "31-0")
    rest = [page async for page in reading]
    assert [query.name for query in rest[0].incomplete] == ["a"]
    assert all(page.incomplete == [] for page in rest[1:])


async def test_events_beyond_the_replay_buffer_come_from_the_history(replica: InProcessReplica) -> None:
    """More events arrive during a replay than are buffered: the replay goes on, and the client is not disconnected."""
    peer, client, task = await start_recovering_client(replica)
    # Two histories: each keeps 256 events at least.
    for number in range(2, 150):
        await replica.push.broadcast("t", number)
    for number in range(150, 300):
        await replica.push.send(peer.sid, "t", number)
    await eventually_async(lambda: now(peer.replay_overflowed))
    client.release.set()
    await task
    await eventually_async(lambda: now(event_data(client)[-1:] == [b"299"]))
    assert event_data(client) == [b"%d" % number for number in range(1, 300)]
    assert client.closed is None


async def test_replay_that_is_slower_than_the_history_ends_with_1013(replica: InProcessReplica) -> None:
    """Events are trimmed before the client has read those before them: it resumes, and is told then."""
    peer, client, task = await start_recovering_client(replica)
    for number in range(2, 700):
        await replica.push.broadcast("t", number)
    await eventually_async(lambda: now(peer.replay_overflowed))
    client.release.set()
    await task
    assert client.closed is not None
    assert client.closed[0] == 1013


def run_after_first_call(
    monkeypatch: pytest.MonkeyPatch, redis: RedisClient, script: LuaScript, then: Callable[[], Awaitable[object]]
) -> None:
    """Run once, after the reply to this client's first call of `script`, and before its next one."""
    run, done = redis.eval, False

    async def watched(called: LuaScript, *rest: Any) -> Any:
        nonlocal done
        answer = await run(called, *rest)
        if called is script and not done:
            done = True
            await then()
        return answer

    monkeypatch.setattr(redis, "eval", watched)


def event_data(paper: RecordingSink) -> list[bytes]:
    """The data of the events that it got."""
    return [frame[frame.index(b'"data":') + 7 : -1] for frame in paper.frames]


async def test_push_between_two_history_reads_is_not_lost(
    replica: InProcessReplica, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """150 sockets are caught up in two calls. A push to all between them is too late for the first; one to a sid of the second
    that comes after it is not, and must not be given: the one before it is still to come.
    """
    crowd = [await replica.add_client(new_sid()) for _ in range(150)]
    await replica.push.broadcast("t", 1)
    await eventually_async(lambda: now(all(paper.frames for _, paper in crowd)))

    async with EventPublisher.from_url(redis_url, "/x") as other:

        async def between() -> None:
            await other.broadcast("t", 3)
            for peer in (crowd[0][0], crowd[149][0]):
                await other.send(peer.sid, "t", 4)
            await other.broadcast("t", 5)

        run_after_first_call(monkeypatch, replica.push.redis, READ_HISTORY, between)
        await other.redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
        await other.broadcast("t", 2)
        await eventually_async(lambda: now(all(event_data(paper)[-1:] == [b"5"] for _, paper in crowd)))
    for number, (_, paper) in enumerate(crowd):
        assert event_data(paper) == ([b"1", b"2", b"3", b"4", b"5"] if number in {0, 149} else [b"1", b"2", b"3", b"5"])


async def test_push_between_two_resume_calls_is_not_lost(
    replica: InProcessReplica, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.socket.history.QUERIES_PER_CALL", 2)
    sockets, entrance = make_handler_and_acceptor(replica)
    sid = new_sid()
    claim = await replica.directory.acquire(sid, "", hash_secret("secret"), "", ("a", "b", "c"))
    assert claim is not None
    await replica.push.broadcast("t", 1)

    async with EventPublisher.from_url(redis_url, "/x") as other:

        async def between() -> None:
            """`all` and the sid have been read, and topics have not."""
            await other.send(sid, "t", 2)
            for number, topic in enumerate(("a", "b", "c", "a")):
                await other.publish(topic, "t", 3 + number)
            await other.broadcast("t", 7)

        run_after_first_call(monkeypatch, replica.push.redis, READ_HISTORY, between)
        client = StalledSink()
        client.release.set()
        entry = await entrance._resume_session(
            ConnectRequest(sid, "secret", f"{claim.epoch}-{claim.offset}", (), ""), client, None
        )
        assert entry is not None
        assert entry.recovered
        monkeypatch.setattr(client, "ping_now", lambda: None, raising=False)
        await sockets._replay_missed(entry, client)  # type: ignore[arg-type]  # as much of a connection as it needs
        await eventually_async(lambda: now(event_data(client)[-1:] == [b"7"]))
    assert event_data(client) == [b"%d" % number for number in range(1, 8)]


async def test_client_joining_during_a_catch_up_gets_no_foreign_events(
    replica: InProcessReplica, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client read its history a moment before the others: what was published between is still delivered."""
    others = [await replica.add_client(new_sid()) for _ in range(2)]
    peer, paper = await replica.add_client(new_sid())
    peer.replay_buffer = []
    await replica.push.broadcast("t", 1)
    await replica.delivery._subscription.barrier()
    read_pages = History.read_pages

    async def reading(self: History, epoch: str, targets: Any) -> AsyncIterator[HistoryPage]:
        """What the client does while these are read."""
        own = [HistoryQuery("all", "", 0), HistoryQuery("sid", peer.sid, 0)]
        own_page = await anext(read_pages(self, epoch, own))
        await other.send(peer.sid, "t", 3)
        await other.broadcast("t", 4)
        found = [page async for page in read_pages(self, epoch, targets)]
        for entry in own_page.entries:
            peer.deliver(replica.delivery.publication_from_history(entry))
        peer.flush_replay_buffer()
        for page in found:
            yield page

    async with EventPublisher.from_url(redis_url, "/x") as other:
        monkeypatch.setattr(History, "read_pages", reading)
        await other.redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
        await other.broadcast("t", 2)
        await eventually_async(lambda: now(event_data(paper)[-1:] == [b"4"]))
    assert event_data(paper) == [b"1", b"2", b"3", b"4"]
    assert [event_data(one) for _, one in others] == [[b"1", b"2", b"4"]] * 2


async def test_topic_joined_during_a_heartbeat_is_received(
    replica: InProcessReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heartbeat unsubscribes unused topics, and the second of them is subscribed again while the first is unsubscribed."""
    delivery = replica.delivery
    for topic in ("a", "b"):
        await delivery.subscribe_topic(topic)
    giving_up, may = asyncio.Event(), asyncio.Event()
    unsubscribe = delivery._subscription.unsubscribe

    async def slow(channel: str) -> None:
        giving_up.set()
        await may.wait()
        await unsubscribe(channel)

    monkeypatch.setattr(delivery._subscription, "unsubscribe", slow)
    beats = [asyncio.create_task(delivery._try_heartbeat()) for _ in range(2)]
    await giving_up.wait()
    peer, paper = await replica.add_client(new_sid())
    replica.hub.subscribe(peer, "b", 0)
    await delivery.subscribe_topic("b")
    may.set()
    await asyncio.gather(*beats)
    assert set(delivery._subscribed_topics) == {"b"}
    await replica.push.publish("b", "t", 1)
    await delivery._subscription.barrier()
    assert event_data(paper) == [b"1"]


async def test_heartbeats_do_not_overlap(replica: InProcessReplica, monkeypatch: pytest.MonkeyPatch) -> None:
    """The periodic heartbeat, and the one after a detected flush."""
    inside, most = 0, 0

    async def round_(*, refresh_all: bool, prune: bool) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.02)
        inside -= 1

    monkeypatch.setattr(replica.attendance, "tick", round_)
    await asyncio.gather(*(replica.delivery._try_heartbeat() for _ in range(3)))
    assert most == 1


async def is_offline(replica: InProcessReplica, sid: str) -> bool:
    presence = await replica.directory.find(sid)
    return presence is not None and not presence.online


async def test_client_leaving_during_a_refresh_is_offline(
    replica: InProcessReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running refresh still has it, and sets its record back to online after its disconnect was recorded."""
    peer, _ = await replica.add_client(new_sid())
    refresh = replica.directory.refresh

    async def overtaken(seats: Any) -> Any:
        replica.attendance.mark_away(peer)
        await replica.attendance._flush()
        return await refresh(seats)

    monkeypatch.setattr(replica.directory, "refresh", overtaken)
    await replica.attendance.refresh([peer])
    await eventually_async(lambda: is_offline(replica, peer.sid), 2)


async def test_acquire_with_a_lost_reply_leaves_no_session_online(
    replica: InProcessReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sid was given to a socket that never connects. Its client resumes with the secret that it has, at its former replica."""
    _, entrance = make_handler_and_acceptor(replica)
    sid = new_sid()
    claim = await replica.directory.acquire(sid, "", hash_secret("secret"), "", ("a",))
    assert claim is not None
    await replica.push.broadcast("t", 1)
    wish = ConnectRequest(sid, "secret", "", (), "")

    async def lost() -> None:
        raise ServiceUnavailable("Redis is unavailable")

    run_after_first_call(monkeypatch, replica.push.redis, ACQUIRE_SESSIONS, lost)
    with pytest.raises(ServiceUnavailable):
        await entrance._resume_session(wish, RecordingSink(), None)
    await eventually_async(lambda: is_offline(replica, sid), 2)
    entry = await entrance._resume_session(wish, RecordingSink(), None)
    assert entry is not None
    assert entry.recovered
    assert entry.first_page is not None
    assert [missed.offset for missed in entry.first_page.entries] == [1]


async def test_new_replica_does_not_report_foreign_sids_unknown(replica: InProcessReplica) -> None:
    """Redis was flushed; the first to detect it is a new replica, before the others have registered again."""
    await replica.delivery.aclose()
    await replica.push.redis.execute("FLUSHALL")
    fresh = SessionStore(replica.push.redis, "fresh", 3)
    await fresh.register_node("run", again=False)
    with pytest.raises(ServiceUnavailable):
        await replica.push.send(new_sid(), "t", 1)
    settles = await replica.push.redis.execute("HGET", SEQUENCE_KEY, "settles")
    await asyncio.sleep(1.1)
    await fresh.register_node("run", again=False)
    assert await replica.push.redis.execute("HGET", SEQUENCE_KEY, "settles") == settles, "only a new epoch is settled"
    await fresh.aclose()


async def test_undelivered_events_are_not_counted_as_received(
    replica: InProcessReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error during a delivery: the subscription is opened again, and the missed event is delivered first."""
    _, paper = await replica.add_client(new_sid())
    deliver = replica.hub.fan_out

    def failing(*_: Any) -> int:
        monkeypatch.setattr(replica.hub, "fan_out", deliver)
        raise RuntimeError("once")

    monkeypatch.setattr(replica.hub, "fan_out", failing)
    await replica.push.broadcast("t", 1)
    await eventually_async(lambda: now(paper.frames))
    assert event_data(paper) == [b"1"]


async def test_session_page_is_read_in_parts(replica: InProcessReplica) -> None:
    """A thousand sessions at their limits are 20 MB: neither Redis nor this process blocks for so much."""
    sids = sorted([new_sid() for _ in range(130)])
    for sid in sids:
        await replica.directory.acquire(sid, "", "secret", "", ("a",))
    before = await replica.count_script_calls()
    found = await replica.directory.find_many(await replica.directory.list_sids("", 1000))
    assert [presence.sid for presence in found] == sids
    assert await replica.count_script_calls() - before == 3


class ScriptedConnection(StalledSink):
    """As much of a connection as a handshake and its messages need."""

    closed_before_accept, query, sent_close_code = False, b"", 0

    def accept(self, _subprotocol: str | None, first: bytes) -> None:
        self.frames.append(first)


async def test_internal_error_closes_one_socket_with_1011(
    replica: InProcessReplica, caplog: pytest.LogCaptureFixture
) -> None:
    """No client is known to cause it, so the error is injected here."""
    sockets, entrance = make_handler_and_acceptor(replica)
    wire = ScriptedConnection()
    wire.release.set()
    turns = iter([{"type": "websocket.connect"}])

    async def receive() -> dict[str, Any]:
        return next(turns, None) or failing()

    def failing() -> dict[str, Any]:
        raise ArithmeticError("ours")

    async def send(_message: Any) -> None:
        pytest.fail("the handshake was answered")

    scope = {"path": "/ws", "headers": [], "subprotocols": [], "extensions": {"gridcast.websocket": wire}}
    await sockets(scope, receive, send)
    assert wire.closed == (1011, "internal error")
    assert b'"recovered":false' in wire.frames[0]
    assert replica.hub.clients == {}
    assert entrance._client_count == 0
    assert "unhandled exception" in caplog.text
