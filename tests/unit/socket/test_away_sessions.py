"""services.socket.away_sessions: which sessions of disconnected clients are discarded."""

from services.socket.away_sessions import (
    MAX_AWAY_BYTES,
    MAX_UNANSWERED_AWAY_BYTES,
    AwaySessions,
    estimate_bytes,
)
from services.socket.hub import SocketClient
from services.socket.sessions import RESUME_WINDOW_SECONDS
from tests.support.recording_sink import RecordingSink


def make_client(number: int, *, answered: bool = False, topics: int = 100) -> SocketClient:
    client = SocketClient(f"sid{number}", f"hash{number}", RecordingSink(), meta="x" * 1000)
    client.topics = {f"{topic:0100d}": 0 for topic in range(topics)}
    client.answered_ping = answered
    return client


def test_oldest_unanswered_sessions_are_discarded() -> None:
    away = AwaySessions()
    fits = MAX_UNANSWERED_AWAY_BYTES // estimate_bytes(make_client(0))
    for number in range(fits):
        assert away.add(make_client(number), number / 1000) == []
    assert away.add(make_client(fits), 1.0) == [("sid0", "hash0")]
    assert away.add(make_client(fits + 1), 1.0) == [("sid1", "hash1")]


def test_clients_that_answered_have_a_bound_of_their_own() -> None:
    away = AwaySessions()
    fits = MAX_AWAY_BYTES // estimate_bytes(make_client(0))
    for number in range(2000):
        away.add(make_client(10_000 + number), 0.0)
    assert [away.add(make_client(number, answered=True), 0.0) for number in range(fits)] == [[]] * fits
    assert away.add(make_client(fits, answered=True), 0.0) == [("sid0", "hash0")]


def test_expired_sessions_count_no_more() -> None:
    away = AwaySessions()
    fits = MAX_UNANSWERED_AWAY_BYTES // estimate_bytes(make_client(0))
    for number in range(fits):
        away.add(make_client(number), 0.0)
    for number in range(fits):
        assert away.add(make_client(fits + number), RESUME_WINDOW_SECONDS) == []


def test_client_that_leaves_again_counts_once() -> None:
    away = AwaySessions()
    for turn in range(10_000):
        assert away.add(make_client(1), turn / 1000) == []
