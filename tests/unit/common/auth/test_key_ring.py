"""services.common.auth.key_ring: names, ends, refused secrets, and HKDF against the vectors of RFC 5869."""

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.auth.key_ring import derive_key, hkdf_sha256, parse_key_ring

FIRST, SECOND, *OTHERS = (hashlib.sha256(b"%d" % number).hexdigest() for number in range(19))
"""As random as any, and the same in each process of a test run, which compares the ids of the tests."""


def test_the_first_signs_and_all_verify_until_their_end() -> None:
    ring = parse_key_ring(f"new {FIRST},old {SECOND} 2030-01-31T12:00:00Z")
    old = ring.keys[1]
    assert ring.signing_key.kid == "new"
    assert (ring.signing_key.secret, ring.signing_key.not_after) == (FIRST.encode(), math.inf)
    assert [key.kid for key in ring.valid_keys(old.not_after - 1)] == ["new", "old"]
    assert [key.kid for key in ring.valid_keys(old.not_after)] == ["new"]
    assert old.not_after == 1_896_091_200.0
    assert ring.find("old", old.not_after - 1) is old
    assert ring.find("old", old.not_after) is None
    assert ring.find("other", 0) is None


def test_entries_may_stand_on_lines() -> None:
    ring = parse_key_ring(f"\n a {FIRST}\n\n  b\t{SECOND}  \n")
    assert [key.kid for key in ring.keys] == ["a", "b"]


def test_a_secret_alone_has_a_name_that_follows_from_it() -> None:
    one, again, other = parse_key_ring(FIRST), parse_key_ring(f"{FIRST}\n"), parse_key_ring(SECOND)
    assert one.keys[0].kid == again.keys[0].kid != other.keys[0].kid
    assert one.keys[0].kid not in FIRST


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no secret"),
        (" ,\n,", "no secret"),
        ("x" * 31, "has 31 bytes"),
        (f"a {'0' * 64}", "looks like an example"),
        ("a " + "abcdefgh" * 5, "looks like an example"),
        ("a your-256-bit-secret-your-256-bit-secret", "looks like an example"),
        ("a-string-secret-at-least-256-bits-long", "looks like an example"),
        ("a CHANGE_ME_CHANGE_ME_to_32_bytes_please", "looks like an example"),
        ("a 0123456789abcdef0123456789abcdef0123456789abcdef", "looks like an example"),
        (f"a {FIRST},a {SECOND}", "the same name"),
        (f"{FIRST},{FIRST}", "the same name"),
        (f"a/b {FIRST}", "the name of secret 1"),
        (f"{'k' * 65} {FIRST}", "the name of secret 1"),
        (f"ok {SECOND},a {FIRST} tomorrow", "the end of secret 2"),
        (f"a {FIRST} 2030-01-31T12:00:00", "no time zone"),
        (f"a {FIRST} 2030-01-31T12:00:00Z more", "is not written as"),
        (f"a {'xY9-' * 300}", "more than 1024"),
        (",".join(f"k{number} {secret}" for number, secret in enumerate(OTHERS)), "more than 16"),
    ],
)
def test_refused_rings(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        parse_key_ring(text)
    assert FIRST not in str(caught.value)
    assert SECOND not in str(caught.value)


@given(st.binary(min_size=32, max_size=64).filter(lambda data: len(set(data.hex())) >= 8).map(lambda data: data.hex()))
def test_any_random_secret_is_accepted_and_never_shown(secret: str) -> None:
    ring = parse_key_ring(f"k {secret}")
    assert secret not in repr(ring)


VECTORS = (
    # RFC 5869, A.1 to A.3.
    (
        b"\x0b" * 22,
        bytes(range(13)),
        bytes(range(0xF0, 0xFA)),
        42,
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)),
        bytes(range(0x60, 0xB0)),
        bytes(range(0xB0, 0x100)),
        82,
        (
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
        ),
    ),
    (
        b"\x0b" * 22,
        b"",
        b"",
        42,
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
)


@pytest.mark.parametrize(("secret", "salt", "info", "length", "expected"), VECTORS)
def test_hkdf_vectors(secret: bytes, salt: bytes, info: bytes, length: int, expected: str) -> None:
    assert hkdf_sha256(secret, salt, info, length).hex() == expected


def test_no_two_purposes_share_a_key() -> None:
    keys = {derive_key(secret.encode(), purpose) for secret in (FIRST, SECOND) for purpose in ("sids", "links", "kid")}
    assert len(keys) == 6
    assert all(len(key) == 32 for key in keys)
