"""Signed links: a text in the query of a URL that lets its holder read one file, upload one, or watch one live stream. Pure.

    v1.<kid>.<payload>.<mac>

`payload` is JSON in base64url, `mac` the HMAC-SHA256 of the text before it in base64url. The key is derived from the secret of the
ring with that kid. There is no algorithm to choose and nothing to look up: a store has only what was changed afterwards.
"""

import base64
import hmac
import json
import math
import secrets
from dataclasses import dataclass
from typing import Any, Literal

from services.common.auth.key_ring import KeyRing
from services.common.errors import InvalidLink
from services.common.media import MediaName

LinkKind = Literal["get", "put", "live"]

LINK_LIFE_SECONDS = 6 * 3600.0
"""By default: longer than a film."""
MAX_LINK_LIFE_SECONDS = 7 * 86400.0
MAX_LINK_LENGTH = 4096
"""Characters. Beside it the address of the file needs room in a request line of 8 KiB."""
LINK_ID_LENGTH = 48

_VERSION = "v1"
_KINDS: dict[str, LinkKind] = {"get": "get", "put": "put", "live": "live"}
_ID_RANDOM_BYTES = 14
_ID_MAC_BYTES = 16
_KEY_OF_NOBODY = secrets.token_bytes(32)
"""Computes the MAC of links with unknown kids, so that they take as long as others."""


@dataclass(frozen=True, slots=True)
class Link:
    """What a link says. Times are Unix times in seconds.

    Arguments:
        id: names the link where it is prolonged or revoked; it is no credential.
        kind: `get` reads, `put` uploads once, `live` watches a live stream, also when it has ended.
        name: the file.
        expires_at: its end, where it was not prolonged.
        subject: who made it, and the owner of what is uploaded by it.
        issued_at: when the token was issued that made it: who revokes that token revokes the link.
        token_id: the `jti` of that token.
        version: `file_id` of the version that it reads; empty: whatever has the name. With `live` the id of the stream.
        max_size: bytes of what is uploaded, None for as much as the server takes.
        media_types: patterns of what is uploaded, none for all that the server takes.

    """

    id: str
    kind: LinkKind
    name: MediaName
    expires_at: float
    subject: str
    issued_at: float = 0.0
    token_id: str = ""
    version: str = ""
    max_size: int | None = None
    media_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _LinkKey:
    kid: str
    links: bytes
    ids: bytes
    not_after: float


class LinkSigner:
    """Signs links, verifies them, and tells whose the id of a link is."""

    def __init__(self, ring: KeyRing) -> None:
        self._keys = [
            _LinkKey(key.kid, key.derive("links"), key.derive("link ids"), key.not_after) for key in ring.keys
        ]

    @property
    def last_expiry(self) -> float:
        """Unix time of the end of the key that signs: no link that it signs is good for longer."""
        return self._keys[0].not_after

    def new_id(self, subject: str) -> str:
        """Return the id of a new link: half of it is random, the other half proves whose it is."""
        random = secrets.token_bytes(_ID_RANDOM_BYTES)
        return base64.b32encode(random + _id_mac(self._keys[0].ids, random, subject)).decode("ascii")

    def is_issuer(self, subject: str, link_id: str, now: float) -> bool:
        """Return whether `subject` made the link with that id."""
        if not subject or not is_link_id(link_id):
            return False
        decoded = base64.b32decode(link_id)  # 30 bytes are 48 characters: each id has one spelling
        random, mac = decoded[:_ID_RANDOM_BYTES], decoded[_ID_RANDOM_BYTES:]
        keys = [key.ids for key in self._keys if now < key.not_after]
        return any(hmac.compare_digest(_id_mac(key, random, subject), mac) for key in keys)

    def sign(self, link: Link) -> str:
        """Return the text of a link. Raises ValueError where it would be longer than MAX_LINK_LENGTH."""
        key = self._keys[0]
        signed = f"{_VERSION}.{key.kid}.{_encode(_payload(link))}"
        text = f"{signed}.{_mac(key.links, signed)}"
        if len(text) > MAX_LINK_LENGTH:
            raise ValueError(f"the link would be longer than {MAX_LINK_LENGTH} characters")
        return text

    def verify(self, text: str, now: float) -> tuple[Link, float]:
        """Return what a link says, and the Unix time at which its key ends. Whether it is late is not looked at.

        Raises InvalidLink, whose text quotes nothing of the link.
        """
        if len(text) > MAX_LINK_LENGTH or not text.isascii():
            raise InvalidLink("it is malformed")
        signed, _, mac = text.rpartition(".")
        head, _, payload = signed.rpartition(".")
        version, _, kid = head.partition(".")
        key = next((one for one in self._keys if one.kid == kid and now < one.not_after), None)
        expected = _mac(_KEY_OF_NOBODY if key is None else key.links, signed)
        # The text and not its bytes is compared: of the last character two bits carry nothing.
        if not hmac.compare_digest(expected, mac) or key is None or version != _VERSION:
            raise InvalidLink("no key of this server has signed it")
        return _parse_payload(payload), key.not_after


def is_link_id(text: str) -> bool:
    """Return whether a text has the form of the id of a link."""
    if len(text) != LINK_ID_LENGTH:
        return False
    try:
        return len(base64.b32decode(text)) == _ID_RANDOM_BYTES + _ID_MAC_BYTES
    except ValueError:
        return False


def capped_expiry(now: float, life: float, *ends: float) -> float:
    """Return the Unix time at which a link ends that shall live for `life` seconds: MAX_LINK_LIFE_SECONDS and `ends` at most."""
    return math.floor(min((now + min(life, MAX_LINK_LIFE_SECONDS), *ends)))


def _payload(link: Link) -> bytes:
    members: dict[str, Any] = {
        "i": link.id,
        "k": link.kind,
        "d": link.name.folder,
        "n": link.name.filename,
        "e": link.expires_at,
        "s": link.subject,
        "a": link.issued_at,
    }
    optional = {"j": link.token_id, "v": link.version, "m": link.max_size, "t": link.media_types}
    present = members | {name: value for name, value in optional.items() if value or value == 0}
    return json.dumps(present, ensure_ascii=False, separators=(",", ":")).encode()


def _parse_payload(payload: str) -> Link:
    """Return the link of a payload whose MAC has held: what is malformed was signed by another program with our secret."""
    try:
        members = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return Link(
            id=members["i"],
            kind=_KINDS[members["k"]],
            name=MediaName(members["d"], members["n"]),
            expires_at=float(members["e"]),
            subject=members["s"],
            issued_at=float(members["a"]),
            token_id=members.get("j", ""),
            version=members.get("v", ""),
            max_size=members.get("m"),
            media_types=tuple(members.get("t", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidLink("it is malformed") from None


def _id_mac(key: bytes, random: bytes, subject: str) -> bytes:
    return hmac.digest(key, random + subject.encode(), "sha256")[:_ID_MAC_BYTES]


def _mac(key: bytes, signed: str) -> str:
    return _encode(hmac.digest(key, signed.encode("ascii"), "sha256"))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
