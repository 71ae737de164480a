"""services.socket.token_expiry: the warning, the end after the leeway, revoked tokens, and what is not known."""

import pytest

from services.common.auth.identity import Identity
from services.common.auth.revocations import Revocation, RevocationList, decode_revocations, encode_revocations
from services.common.errors import InvalidToken, ServiceUnavailable
from services.socket.disconnect import TOKEN_EXPIRED, TOKEN_REVOKED
from services.socket.hub import Hub, SocketClient
from services.socket.token_expiry import TokenExpiry
from tests.support.recording_sink import RecordingSink


class World:
    """A hub with one client whose token ends at 1000, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.warned: list[str] = []
        self.revocations = RevocationList()
        self.revocations.replace([])
        self.hub = Hub()
        self.paper = RecordingSink()
        self.client = SocketClient(
            "a", "hash", self.paper, identity=Identity("alice", expires_at=1000.0, issued_at=5.0)
        )
        self.hub.add(self.client)
        self.expiry = TokenExpiry(
            self.hub, lambda _client, end: self.warned.append(end), self.revocations.check, lambda: self.now
        )

    def check_at(self, now: float) -> None:
        self.now = now
        self.expiry.check_all()


def test_one_warning_and_the_end_after_the_leeway() -> None:
    world = World()
    world.client.flush_replay_buffer()
    world.check_at(939.0)
    assert world.warned == []
    for now in (940.0, 940.5, 1009.9):
        world.check_at(now)
    assert world.warned == ["1970-01-01T00:16:40+00:00"]
    assert world.paper.closed is None
    world.check_at(1010.0)
    assert world.paper.closed == (TOKEN_EXPIRED.code, TOKEN_EXPIRED.reason)


def test_no_warning_during_a_replay() -> None:
    world = World()
    world.check_at(950.0)
    assert world.warned == []
    world.client.flush_replay_buffer()
    world.check_at(951.0)
    assert len(world.warned) == 1


def test_revoked_tokens_are_closed_and_unknown_revocations_close_none() -> None:
    world = World()
    world.revocations.forget()
    world.check_at(1.0)
    assert world.paper.closed is None
    world.revocations.replace([Revocation("subject", "bob", 10.0, 99.0)])
    world.check_at(2.0)
    assert world.paper.closed is None
    world.revocations.replace([Revocation("subject", "alice", 5.0, 99.0)])
    world.check_at(3.0)
    assert world.paper.closed == (TOKEN_REVOKED.code, TOKEN_REVOKED.reason)


def test_clients_without_an_identity_are_not_closed() -> None:
    world = World()
    world.client.identity = None
    world.check_at(10_000.0)
    assert world.paper.closed is None


@pytest.mark.parametrize(
    ("identity", "revoked"),
    [
        (Identity("alice", token_id="t1", issued_at=50.0), True),
        (Identity("alice", token_id="t2", issued_at=11.0), False),
        (Identity("bob", token_id="t2", issued_at=10.0), True),
        (Identity("bob", token_id="t2", issued_at=10.5), False),
        (Identity("bob"), True),
        (Identity("carol"), False),
        (Identity(), False),
    ],
)
def test_what_a_revocation_covers(identity: Identity, revoked: bool) -> None:
    known = RevocationList()
    entries = [
        Revocation("token", "t1", 0.0, 99.0),
        Revocation("subject", "bob", 10.0, 99.0),
        Revocation("subject", "bob", 7.0, 99.0),
    ]
    assert known.replace(decode_revocations(encode_revocations(entries).encode()))
    assert not known.replace(entries)
    if revoked:
        with pytest.raises(InvalidToken):
            known.check(identity)
    else:
        known.check(identity)


def test_before_they_are_known_no_token_is_accepted() -> None:
    unknown = RevocationList()
    unknown.check(Identity())
    with pytest.raises(ServiceUnavailable):
        unknown.check(Identity("alice"))


@pytest.mark.parametrize("data", [b"", b"{", b"7", b"[1]", b'[["token"]]', b'[["token","a","x",1]]', b"[" * 5000])
def test_malformed_lists(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_revocations(data)
