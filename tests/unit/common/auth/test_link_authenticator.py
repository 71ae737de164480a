"""services.common.auth.link_authenticator and authorization by links: caches, ends, revocations, and what is for which request."""

from dataclasses import replace
from typing import Any

import pytest

from services.common.auth import link_authenticator
from services.common.auth.authenticator import Authenticator
from services.common.auth.authorization import Authorization
from services.common.auth.credentials import find_link
from services.common.auth.identity import Identity, identity_of, link_of
from services.common.auth.key_ring import parse_key_ring
from services.common.auth.link_authenticator import LinkAuthenticator
from services.common.auth.revocations import Revocation, RevocationList, decode_revocations, encode_revocations
from services.common.auth.route_rules import RULES, RuleTable
from services.common.auth.sids import SidSigner
from services.common.auth.signed_links import Link, LinkSigner
from services.common.errors import BadRequest, GridcastError, InvalidLink, ServiceUnavailable, Unauthorized
from services.common.media import MediaName
from tests.support.tokens import OTHER_SECRET, SECRET

RING = parse_key_ring(f"k1 {SECRET},old {OTHER_SECRET} 1970-01-01T00:33:20Z")
SIGNER = LinkSigner(RING)
GET = Link(SIGNER.new_id("alice"), "get", MediaName("a", "x.mp4"), 1000.0, "alice", 500.0, "jti")
PUT = replace(GET, id=SIGNER.new_id("alice"), kind="put")


class Process:
    """What one process knows, at a time that the test sets."""

    def __init__(self, *known: Revocation) -> None:
        self.now = 900.0
        self.revocations = RevocationList()
        self.revocations.replace(known)
        self.links = LinkAuthenticator(SIGNER, self.revocations, lambda: self.now)
        routes = [(method, template) for template, rules in RULES.items() for method in rules]

        def no_token(_text: str, _now: float) -> Identity:
            raise AssertionError("no token is sent here")

        authenticator = Authenticator(no_token, Identity(), check_revoked=self.revocations.check)
        self.authorization = Authorization(
            authenticator, RuleTable(routes), SidSigner(RING, lambda: self.now), links=self.links
        )

    def ask(self, method: str, target: str, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
        path, _, query = target.partition("?")
        scope = {
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": list(headers),
        }
        self.authorization.authorize_now(scope)
        return scope


def test_the_identity_is_that_of_the_issuer() -> None:
    process = Process()
    scope = process.ask("GET", f"/files/a/x.mp4?link={SIGNER.sign(GET)}")
    identity = identity_of(scope)
    assert identity is not None
    assert (identity.subject, identity.token_id, identity.issued_at) == ("alice", "jti", 500.0)
    assert link_of(scope) == GET
    assert not identity.rights.may_somewhere("read")
    assert process.links.authenticate(SIGNER.sign(PUT))[0].rights.may_folder("write", "a")
    assert not process.links.authenticate(SIGNER.sign(PUT))[0].rights.may_folder("write", "b")
    assert link_of(process.ask("GET", "/livez?link=x")) is None


def test_a_verified_link_is_remembered_and_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    process, text = Process(), SIGNER.sign(GET)
    first, _ = process.links.authenticate(text)
    monkeypatch.setattr(SIGNER, "verify", None)
    assert process.links.authenticate(text)[0] is first
    process.now = 999.9
    assert process.links.authenticate(text)[0] is first
    process.now = 1000.0
    with pytest.raises(InvalidLink, match="expired"):
        process.links.authenticate(text)


def test_a_remembered_link_ends_with_its_key() -> None:
    process = Process()
    text = LinkSigner(parse_key_ring(f"old {OTHER_SECRET}")).sign(replace(GET, expires_at=9000.0))
    process.now = 1999.0
    process.links.authenticate(text)
    process.now = 2000.0
    with pytest.raises(InvalidLink, match="no key"):
        process.links.authenticate(text)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_authenticator, "MAX_REMEMBERED_LINKS", 3)
    process = Process()
    for number in range(9):
        process.links.authenticate(SIGNER.sign(replace(GET, version=str(number))))
        assert len(process.links._verified) <= 3


@pytest.mark.parametrize(
    ("revocation", "reason"),
    [
        (Revocation("link", GET.id, 0, 9e9), "it was revoked"),
        (Revocation("token", "jti", 0, 9e9), "its issuer was revoked"),
        (Revocation("subject", "alice", 500.0, 9e9), "its issuer was revoked"),
        (Revocation("subject", "alice", 499.0, 9e9), ""),
        (Revocation("link", PUT.id, 0, 9e9), ""),
        (Revocation("subject", GET.id, 9e9, 9e9), ""),
        (Revocation("token", GET.id, 0, 9e9), ""),
    ],
)
def test_revocations_of_links_and_of_their_issuers(revocation: Revocation, reason: str) -> None:
    """A link is as old as the token that made it, so a revocation of the subject takes one that was made a moment later."""
    process, text = Process(), SIGNER.sign(GET)
    process.links.authenticate(text)
    (told,) = decode_revocations(encode_revocations([revocation]).encode())
    assert process.revocations.replace([told])
    if reason:
        with pytest.raises(InvalidLink, match=reason):
            process.links.authenticate(text)
    else:
        process.links.authenticate(text)


def test_a_link_is_refused_while_the_revocations_are_not_known() -> None:
    process, text = Process(), SIGNER.sign(GET)
    process.links.authenticate(text)
    process.revocations.forget()
    with pytest.raises(ServiceUnavailable):
        process.links.authenticate(text)


def test_a_prolonged_link_goes_on_and_never_ends_earlier() -> None:
    process, text = Process(Revocation("prolonged", GET.id, 0, 2000.0)), SIGNER.sign(GET)
    process.now = 1999.0
    process.links.authenticate(text)
    process.now = 2000.0
    with pytest.raises(InvalidLink, match="expired"):
        process.links.authenticate(text)
    process.revocations.replace([Revocation("prolonged", GET.id, 0, 950.0)])
    process.now = 999.0
    process.links.authenticate(text)
    assert not process.revocations.replace([]), "nothing that runs is to be cut"


@pytest.mark.parametrize(
    ("method", "target", "link", "reason"),
    [
        ("GET", "/files/a/x.mp4", GET, ""),
        ("HEAD", "/files/a/x.mp4", GET, ""),
        ("GET", "/files/%61/x%2Emp4", GET, ""),
        ("GET", "/file/stream?filename=x.mp4&folder=a", GET, ""),
        ("GET", "/file/stream?folder=a&filename=x.mp4", PUT, "route"),
        ("GET", "/file/poster?filename=x.mp4&folder=a", GET, ""),
        ("GET", "/file/poster?filename=x.mp4&folder=b", GET, "another file"),
        ("PUT", "/file/poster?filename=x.mp4&folder=a", GET, "route"),
        ("GET", "/files/a/y.mp4", GET, "another file"),
        ("GET", "/files/b/x.mp4", GET, "another file"),
        ("GET", "/files/x.mp4", GET, "another file"),
        ("GET", "/file/stream?filename=x.mp4", GET, "another file"),
        ("PUT", "/files/a/x.mp4", GET, "route"),
        ("PUT", "/files/a/x.mp4", PUT, "route"),
        ("DELETE", "/files/a/x.mp4", GET, "route"),
        ("GET", "/file/info?filename=x.mp4&folder=a", GET, "route"),
        ("GET", "/file?folder=a", GET, "route"),
        ("POST", "/file/tus", GET, "route"),
        ("POST", "/file/tus", PUT, ""),
        ("PATCH", "/file/tus/7", PUT, ""),
        ("POST", "/file/link", GET, "route"),
        ("POST", "/file/link", PUT, "route"),
        ("PATCH", "/file/link/x", GET, "route"),
        ("POST", "/auth/revocations", PUT, "route"),
        ("GET", "/sockets", GET, "route"),
    ],
)
def test_what_a_link_is_for(method: str, target: str, link: Link, reason: str) -> None:
    joined = f"{target}{'&' if '?' in target else '?'}link={SIGNER.sign(link)}"
    if reason:
        with pytest.raises(InvalidLink, match=reason):
            Process().ask(method, joined)
    else:
        assert link_of(Process().ask(method, joined)) == link


def test_one_credential_at_a_time() -> None:
    target = f"/files/a/x.mp4?link={SIGNER.sign(GET)}"
    for headers in ([(b"authorization", b"Bearer x")], [(b"authorization", b"Basic x")]):
        with pytest.raises(BadRequest, match="more than one credential"):
            Process().ask("GET", target, *headers)
    with pytest.raises(BadRequest, match="more than one credential"):
        Process().ask("GET", f"{target}&link=x")


@pytest.mark.parametrize(
    ("query", "link"),
    [
        (b"", None),
        (b"folder=a", None),
        (b"xlink=v1", None),
        (b"link=v1.a", "v1.a"),
        (b"folder=a&link=v1.a&x=1", "v1.a"),
        (b"link=", ""),
        (b"link=%76", "%76"),
        (b"l%69nk=v1", None),
        (b"q=link=7", None),
        (b"link=a=b", "a=b"),
        (b"link=\xff", "\xff"),
    ],
)
def test_links_of_queries(query: bytes, link: str | None) -> None:
    assert find_link(query) == link


def test_other_spellings_of_the_parameter_are_no_credential() -> None:
    with pytest.raises(Unauthorized):
        Process().ask("GET", f"/files/a/x.mp4?l%69nk={SIGNER.sign(GET)}")
    text = SIGNER.sign(GET)
    for spelled in (f"%{ord(text[0]):02x}{text[1:]}", f"{text}%20", f"{text}\xff"):
        with pytest.raises(GridcastError) as caught:
            Process().ask("GET", f"/files/a/x.mp4?link={spelled}")
        assert caught.value.status in {400, 403}
