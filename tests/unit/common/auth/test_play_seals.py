"""services.common.auth.play_seals: what a seal says, and that it belongs to one address."""

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.auth.identity import Identity
from services.common.auth.key_ring import parse_key_ring
from services.common.auth.play_seals import PlaySealer, describe_player
from services.common.auth.signed_links import Link
from services.common.media import MediaName
from services.common.store.play_addresses import make_play_address, parse_play_address
from services.common.store.upload_ids import format_upload_id

ADDRESS = make_play_address(format_upload_id("a" * 24, "b" * 24, "c" * 32)) or ""
OTHER = make_play_address(format_upload_id("a" * 24, "d" * 24, "c" * 32)) or ""
SECRET, OTHER_SECRET = (hashlib.sha256(name).hexdigest() for name in (b"one", b"another"))
LINK = Link("link-1", "put", MediaName("a", "b"), 2e9, "alice", 5.0, "jti")


def sealer(secret: str = SECRET) -> PlaySealer:
    return PlaySealer(parse_key_ring(secret), lambda: 1e9)


@given(subject=st.text(max_size=50), issued_at=st.floats(0, 1e10), token_id=st.text(max_size=50))
def test_an_address_says_who_began_its_upload(subject: str, issued_at: float, token_id: str) -> None:
    player = describe_player(Identity(subject, issued_at=issued_at, token_id=token_id))
    sealed = sealer().seal(ADDRESS, player)
    assert parse_play_address(sealed) == parse_play_address(ADDRESS)
    found = sealer().open(sealed)
    assert found is not None
    assert (found.subject, found.issued_at, found.token_id, found.link) == (subject, issued_at, token_id, None)
    assert found.expires_at == math.inf, "an address outlives the end of its token"


def test_a_link_is_named() -> None:
    identity = Identity("alice", token_id="jti", issued_at=5.0, link=LINK)
    found = sealer().open(sealer().seal(ADDRESS, describe_player(identity)))
    assert found is not None
    assert found.link is not None
    assert (found.link.id, found.token_id, found.subject) == ("link-1", "jti", "alice")


def test_without_authentication_nothing_is_said() -> None:
    assert describe_player(None) == ""


SEALED = sealer().seal(ADDRESS, describe_player(Identity("alice")))


@pytest.mark.parametrize(
    "text",
    [
        ADDRESS,
        f"{ADDRESS}.",
        f"{ADDRESS}.aaaa",
        f"{ADDRESS}.a",
        f"{OTHER}.{SEALED.partition('.')[2]}",
        f"{ADDRESS}.a{SEALED.partition('.')[2][1:]}",
        sealer(OTHER_SECRET).seal(ADDRESS, describe_player(Identity("alice"))),
    ],
)
def test_seals_of_others_are_none(text: str) -> None:
    assert parse_play_address(text) is not None
    assert sealer().open(text) is None
