"""services.common.auth.signed_links: every bit counts, one spelling each, ends, and ids that prove whose they are."""

import ast
import base64
import inspect
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.auth import signed_links
from services.common.auth.key_ring import parse_key_ring
from services.common.auth.sids import SidSigner
from services.common.auth.signed_links import (
    LINK_ID_LENGTH,
    MAX_LINK_LENGTH,
    MAX_LINK_LIFE_SECONDS,
    Link,
    LinkSigner,
    capped_expiry,
    is_link_id,
)
from services.common.errors import InvalidLink
from services.common.media import MediaName
from tests.support.tokens import OTHER_SECRET, SECRET

SIGNER = LinkSigner(parse_key_ring(f"k.1 {SECRET}"))
GET = Link(
    id=SIGNER.new_id("alice"),
    kind="get",
    name=MediaName("team a/ä", "holiday.mp4"),
    expires_at=2_000_000_000.0,
    subject="alice",
    issued_at=1_999_000_000.0,
    token_id="jti-1",  # no secret
    version="6923a7d1c5f0a1b2c3d4e5f6",
)
PUT = Link(
    SIGNER.new_id("bob"), "put", MediaName("", "x"), 2_000_000_000.0, "bob", max_size=0, media_types=("video/*",)
)
NAMES = st.builds(MediaName, st.text(max_size=20), st.text(min_size=1, max_size=20))
LINKS = st.builds(
    Link,
    id=st.just(GET.id),
    kind=st.sampled_from(["get", "put"]),
    name=NAMES,
    expires_at=st.floats(0, 2**40),
    subject=st.text(min_size=1, max_size=20),
    issued_at=st.floats(0, 2**40),
    token_id=st.text(max_size=10),
    version=st.text("0123456789abcdef", max_size=24),
    max_size=st.none() | st.integers(0, 2**60),
    media_types=st.lists(st.text(max_size=10), max_size=3).map(tuple),
)


@pytest.mark.parametrize("link", [GET, PUT, replace(GET, version=""), replace(PUT, max_size=None, media_types=())])
def test_a_link_says_what_was_signed(link: Link) -> None:
    text = SIGNER.sign(link)
    assert SIGNER.verify(text, 0) == (link, math.inf)
    assert text.startswith("v1.k.1.")
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


@given(LINKS)
def test_every_link_is_read_as_it_was_signed(link: Link) -> None:
    try:
        link.name.folder.encode(), link.name.filename.encode(), link.subject.encode()
        text = SIGNER.sign(link)
    except UnicodeEncodeError:
        return  # names and subjects are UTF-8
    assert SIGNER.verify(text, 0)[0] == link


@pytest.mark.parametrize("link", [GET, PUT])
def test_every_bit_of_payload_and_mac_counts(link: Link) -> None:
    text = SIGNER.sign(link)
    begin = len("v1.k.1.")
    refused = 0
    for at in range(begin, len(text)):
        for bit in range(8):
            flipped = text[:at] + chr(ord(text[at]) ^ (1 << bit)) + text[at + 1 :]
            with pytest.raises(InvalidLink):
                SIGNER.verify(flipped, 0)
            refused += 1
    assert refused == 8 * (len(text) - begin)


def test_every_bit_of_the_decoded_payload_and_mac_counts() -> None:
    head, payload, mac = SIGNER.sign(GET).rsplit(".", 2)
    for part in (0, 1):
        data = base64.urlsafe_b64decode((payload, mac)[part] + "==")
        for bit in range(8 * len(data)):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            other = base64.urlsafe_b64encode(bytes(changed)).rstrip(b"=").decode()
            with pytest.raises(InvalidLink, match="no key"):
                SIGNER.verify(".".join((head, *((other, mac) if part == 0 else (payload, other)))), 0)


@given(st.text(max_size=200) | st.from_regex(r"v1\.k\.1\.[A-Za-z0-9_-]{0,90}\.[A-Za-z0-9_-]{43}", fullmatch=True))
def test_no_other_text_is_a_link(text: str) -> None:
    with pytest.raises(InvalidLink):
        SIGNER.verify(text, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("v1.", "v2.", 1),
        lambda text: text.replace("v1.", "", 1),
        lambda text: text.replace("k.1", "k.2", 1),
        lambda text: text.replace("k.1", "../../dev/null", 1),
        lambda text: text.rpartition(".")[0],
        lambda text: text + "=",
        lambda text: text + "A",
        lambda text: text[:-1],
        lambda text: text + "." + text.rpartition(".")[2],
        lambda text: f" {text}",
        lambda text: text + "x" * MAX_LINK_LENGTH,
        lambda text: "é" + text,
        lambda _text: "",
        lambda _text: "...",
    ],
)
def test_other_spellings_are_refused(change: object) -> None:
    assert callable(change)
    with pytest.raises(InvalidLink) as caught:
        SIGNER.verify(change(SIGNER.sign(GET)), 0)
    assert caught.value.status == 403
    assert "k.1" not in caught.value.detail


def test_keys_retire() -> None:
    old = LinkSigner(parse_key_ring(f"old {OTHER_SECRET}"))
    both = LinkSigner(parse_key_ring(f"new {SECRET},old {OTHER_SECRET} 2030-01-31T12:00:00Z"))
    text, end = old.sign(GET), 1_896_091_200.0
    assert both.verify(text, end - 1) == (GET, end)
    with pytest.raises(InvalidLink, match="no key"):
        both.verify(text, end)
    with pytest.raises(InvalidLink, match="no key"):
        LinkSigner(parse_key_ring(f"new {SECRET}")).verify(text, 0)
    with pytest.raises(InvalidLink, match="no key"):  # the kid is known, its secret is another
        LinkSigner(parse_key_ring(f"old {SECRET}")).verify(text, 0)
    assert both.sign(GET).startswith("v1.new.")
    assert both.last_expiry == math.inf
    theirs = old.new_id("alice")
    assert both.is_issuer("alice", theirs, end - 1)
    assert not both.is_issuer("alice", theirs, end)


def test_a_payload_that_another_program_signed() -> None:
    """With the right key, so that the MAC holds: refused, not a fault."""
    for payload in (
        b"",
        b"[]",
        b"7",
        b"{}",
        b'{"k":"post"}',
        b'{"k":[]}',
        b"\xff",
        b'{"k":"get","i":"x","d":"","n":"a"}',
    ):
        signed = f"v1.k.1.{base64.urlsafe_b64encode(payload).rstrip(b'=').decode()}"
        mac = signed_links._mac(SIGNER._keys[0].links, signed)
        with pytest.raises(InvalidLink, match="malformed"):
            SIGNER.verify(f"{signed}.{mac}", 0)


def test_links_share_no_key_with_tokens_and_sids() -> None:
    ring = parse_key_ring(f"k.1 {SECRET}")
    (key,) = SIGNER._keys
    sids = SidSigner(ring, lambda: 0.0)
    assert len({key.links, key.ids, ring.signing_key.secret, *(one for one, _ in sids._keys)}) == 4


def test_an_id_proves_whose_it_is() -> None:
    made = SIGNER.new_id("alice")
    assert len(made) == LINK_ID_LENGTH
    assert is_link_id(made)
    assert SIGNER.is_issuer("alice", made, 0)
    other = "B" if made[0] == "A" else "A"
    for subject, text in (("bob", made), ("", made), ("alice", other + made[1:]), ("alice", made[:-1]), ("alice", "")):
        assert not SIGNER.is_issuer(subject, text, 0)
    for text in (made.lower(), "1" * LINK_ID_LENGTH, made + "=", made[:-8] + "=" * 8):
        assert not is_link_id(text)
        assert not SIGNER.is_issuer("alice", text, 0)


def test_a_link_that_is_too_long_is_not_made() -> None:
    with pytest.raises(ValueError, match="longer than 4096"):
        SIGNER.sign(replace(PUT, name=MediaName("ä" * 512, "ä" * 127), subject="€" * 255, media_types=("€" * 1000,)))


def test_lives_are_capped() -> None:
    assert capped_expiry(1000.5, 60) == 1060
    assert capped_expiry(0, 10 * MAX_LINK_LIFE_SECONDS) == MAX_LINK_LIFE_SECONDS
    assert capped_expiry(0, 60, 30) == 30
    assert capped_expiry(0, 60, math.inf) == 60


def test_macs_are_compared_in_constant_time_alone() -> None:
    """No `==` compares a MAC: the comparisons of the module are of versions, kids, times and lengths."""
    tree = ast.parse(inspect.getsource(signed_links))
    compared = {
        ast.unparse(side)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and any(isinstance(one, ast.Eq | ast.NotEq | ast.In) for one in node.ops)
        for side in (node.left, *node.comparators)
    }
    assert not {text for text in compared if "mac" in text.lower() and text != "_ID_RANDOM_BYTES + _ID_MAC_BYTES"}
    assert inspect.getsource(LinkSigner).count("hmac.compare_digest") == 2
    assert json.loads(signed_links._payload(PUT))["m"] == 0
