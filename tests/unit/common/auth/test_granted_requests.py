"""services.common.auth.granted_requests: a remembered decision is the one that would be made, or none."""

import time
from typing import Any

import pytest

from services.common.auth.authenticator import Authenticator
from services.common.auth.authorization import Authorization
from services.common.auth.granted_requests import (
    MAX_GRANTED_REQUESTS,
    MAX_KEY_BYTES,
    Grant,
    GrantedRequests,
    request_key,
)
from services.common.auth.identity import Identity, identity_of
from services.common.auth.key_ring import parse_key_ring
from services.common.auth.link_authenticator import LinkAuthenticator
from services.common.auth.revocations import Revocation, RevocationList
from services.common.auth.rights import parse_scope
from services.common.auth.route_rules import RULES, RuleTable
from services.common.auth.sids import SidSigner
from services.common.auth.signed_links import Link, LinkSigner
from services.common.errors import BadRequest, Forbidden, GridcastError, InvalidLink, InvalidToken, ServiceUnavailable
from services.common.media import MediaName
from tests.support.tokens import SECRET

START = 1_800_000_000.0
TOKEN = b"Bearer read:demo"


def scope_of(target: str, *fields: tuple[bytes, bytes], method: str = "GET") -> dict[str, Any]:
    """An ASGI scope as the server makes it."""
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost"), *fields],
    }


class Process:
    """An authorisation whose tokens are scopes, with `+` for a space, and that counts how often one is verified."""

    def __init__(self) -> None:
        self.now = START
        self.verified = 0
        self.revocations = RevocationList()
        self.revocations.replace([])
        ring = parse_key_ring(f"k1 {SECRET}")
        self.authenticator = Authenticator(
            self._verify, Identity(), check_revoked=self.revocations.check, clock=lambda: self.now
        )
        self.signer = LinkSigner(ring)
        self.authorization = Authorization(
            self.authenticator,
            RuleTable((method, template) for template, rules in RULES.items() for method in rules),
            SidSigner(ring, time.time),
            links=LinkAuthenticator(self.signer, self.revocations, lambda: self.now),
        )

    def _verify(self, text: str, now: float) -> Identity:
        self.verified += 1
        return Identity("alice", parse_scope(text.replace("+", " ")), now + 60, "t1", now)

    def ask(self, target: str, *fields: tuple[bytes, bytes], method: str = "GET") -> Identity | None:
        """Authorise one request and return its identity."""
        scope = scope_of(target, *fields, method=method)
        self.authorization.authorize_now(scope)
        return identity_of(scope)


@pytest.fixture
def process() -> Process:
    return Process()


def test_an_equal_request_has_the_same_identity(process: Process) -> None:
    first = process.ask("/files/demo/a", (b"authorization", TOKEN))
    assert process.ask("/files/demo/a", (b"range", b"bytes=0-1"), (b"authorization", TOKEN)) is first
    assert first is not None
    assert first.subject == "alice"


@pytest.mark.parametrize(
    ("target", "fields", "error"),
    [
        ("/files/other/a", [(b"authorization", TOKEN)], Forbidden),
        ("/file/stream?filename=a&folder=other", [(b"authorization", TOKEN)], Forbidden),
        ("/files/demo/a", [(b"authorization", TOKEN), (b"authorization", TOKEN)], BadRequest),
        ("/files/demo/a", [], GridcastError),
    ],
)
def test_another_request_is_decided_by_itself(
    process: Process, target: str, fields: list[tuple[bytes, bytes]], error: type[Exception]
) -> None:
    process.ask("/files/demo/a", (b"authorization", TOKEN))
    process.ask("/file/stream?filename=a&folder=demo", (b"authorization", TOKEN))
    with pytest.raises(error):
        process.ask(target, *fields)


def test_a_method_with_another_right_is_decided_by_itself(process: Process) -> None:
    process.ask("/files/demo/a", (b"authorization", TOKEN))
    assert process.ask("/files/demo/a", (b"authorization", TOKEN), method="HEAD") is not None
    for method in ("PUT", "DELETE"):
        with pytest.raises(Forbidden):
            process.ask("/files/demo/a", (b"authorization", TOKEN), method=method)


def test_a_refusal_is_not_remembered(process: Process) -> None:
    for _ in range(2):
        with pytest.raises(Forbidden):
            process.ask("/files/other/a", (b"authorization", TOKEN))


def test_it_ends_with_the_token(process: Process) -> None:
    process.ask("/files/demo/a", (b"authorization", TOKEN))
    process.now += 75
    with pytest.raises(InvalidToken):
        process.ask("/files/demo/a", (b"authorization", TOKEN))


def test_revocations_count_at_once(process: Process) -> None:
    process.ask("/files/demo/a", (b"authorization", TOKEN))
    process.revocations.forget()
    with pytest.raises(ServiceUnavailable):
        process.ask("/files/demo/a", (b"authorization", TOKEN))
    process.revocations.replace([Revocation("token", "t1", 0, START + 99)])
    with pytest.raises(InvalidToken):
        process.ask("/files/demo/a", (b"authorization", TOKEN))


def test_it_is_forgotten_with_the_keys(process: Process) -> None:
    process.ask("/files/demo/a", (b"authorization", TOKEN))
    process.authenticator.forget_verified()
    process.ask("/files/demo/a", (b"authorization", TOKEN))
    assert process.verified == 2


def test_a_link_ends_and_is_prolonged(process: Process) -> None:
    link = Link("L1", "get", MediaName("demo", "a"), START + 10, "alice", START, "t1")
    target = f"/files/demo/a?link={process.signer.sign(link)}"
    first = process.ask(target)
    assert process.ask(target) is first
    with pytest.raises(BadRequest):
        process.ask(target, (b"authorization", TOKEN))
    process.now += 11
    with pytest.raises(InvalidLink):
        process.ask(target)
    process.revocations.replace([Revocation("prolonged", "L1", 0, START + 100)])
    assert process.ask(target) is first
    process.revocations.replace([Revocation("link", "L1", 0, START + 100)])
    with pytest.raises(InvalidLink):
        process.ask(target)


def test_what_is_held_is_bounded() -> None:
    granted = GrantedRequests()
    grant = Grant(Identity("alice"), START)
    for number in range(MAX_GRANTED_REQUESTS + 1):
        granted.put(("GET", b"/", str(number).encode(), b""), grant)
    assert granted.get(("GET", b"/", b"0", b""), START - 1) is None
    assert granted.get(("GET", b"/", b"1", b""), START - 1) is grant.identity
    assert granted.get(("GET", b"/", b"1", b""), START) is None
    long = request_key(scope_of("/a", (b"authorization", bytes(MAX_KEY_BYTES))))
    assert long is not None
    granted.put(long, grant)
    assert granted.get(long, START - 1) is None
    assert request_key(scope_of("/a")) is None
    assert request_key(scope_of("/a", (b"authorization", TOKEN), method="POST")) is None
