"""services.common.auth.authorization, credentials, route_rules and sids: tables, and what no request may reach."""

import base64
import secrets
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.auth.authenticator import Authenticator
from services.common.auth.authorization import Authorization
from services.common.auth.credentials import drop_socket_token, find_socket_token, find_token
from services.common.auth.identity import Identity, identity_of
from services.common.auth.key_ring import parse_key_ring
from services.common.auth.rights import parse_scope
from services.common.auth.route_rules import RULES, RuleTable, Source, find_rule
from services.common.auth.sids import SidSigner
from services.common.errors import (
    BadRequest,
    Forbidden,
    GridcastError,
    InsufficientScope,
    InvalidToken,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
)
from tests.support.tokens import OTHER_SECRET, SECRET

ALL_ROUTES = [(method, template) for template, rules in RULES.items() for method in rules]


def scope_of(method: str, target: str, token: str = "", *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    """An ASGI scope as the server makes it."""
    path, _, query = target.partition("?")
    fields = [(b"host", b"localhost"), *headers]
    if token:
        fields.append((b"authorization", f"Bearer {token}".encode()))
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": fields,
    }


def authorization(anonymous: str = "", tus_folder: Any = None) -> Authorization:
    """An authorisation whose tokens are their own scopes, with `+` for a space."""

    def verify(text: str, now: float) -> Identity:
        if text == "invalid":
            raise InvalidToken("it is malformed")
        return Identity("alice", parse_scope(text.replace("+", " ")), now + 60)

    authenticator = Authenticator(verify, Identity(rights=parse_scope(anonymous)))
    ring = parse_key_ring(f"k1 {SECRET}")
    return Authorization(authenticator, RuleTable(ALL_ROUTES), SidSigner(ring, time.time), tus_folder)


def test_identity_is_put_into_the_scope_and_public_routes_look_at_no_token() -> None:
    scope = scope_of("GET", "/file", "read:a")
    authorization().authorize_now(scope)
    found = identity_of(scope)
    assert found is not None
    assert found.subject == "alice"
    public = scope_of("GET", "/livez", "invalid")
    authorization().authorize_now(public)
    assert identity_of(public) is None


def test_anonymous_rights() -> None:
    open_folder = authorization("read:public/*")
    open_folder.authorize_now(scope_of("GET", "/files/public/a"))
    for target in ("/files/private/a", "/file?folder=private"):
        with pytest.raises(Unauthorized) as caught:
            open_folder.authorize_now(scope_of("GET", target))
        assert caught.value.headers["www-authenticate"] == 'Bearer realm="gridcast"'
    with pytest.raises(InvalidToken):
        open_folder.authorize_now(scope_of("GET", "/files/public/a", "invalid"))


def test_a_tus_folder_is_read_from_its_metadata() -> None:
    for folder, token, error in (("a", "write:a", None), ("b", "write:a", InsufficientScope), (None, "write:a", None)):
        judge = authorization(tus_folder=lambda _scope, folder=folder: folder)
        scope = scope_of("POST", "/file/tus", token)
        if error is None:
            judge.authorize_now(scope)
        else:
            with pytest.raises(error):
                judge.authorize_now(scope)


@given(st.sampled_from(["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"]), st.text(max_size=30))
def test_no_path_gets_past_the_table(method: str, path: str) -> None:
    """Without a token a request is public or refused, whatever its path."""
    scope = {**scope_of(method, "/"), "path": f"/{path}", "raw_path": b"/" + path.encode("utf-8", "replace")}
    status = 0
    try:
        authorization().authorize_now(scope)
    except GridcastError as error:
        status = error.status
    assert status in {401, 404, 405} or RuleTable(ALL_ROUTES).match(method, scope["path"]).verb is None


def test_a_route_without_a_rule_stops_the_start() -> None:
    with pytest.raises(RuntimeError, match=r"no rule in .* for GET /file/new"):
        RuleTable([("GET", "/file"), ("GET", "/file/new")])
    with pytest.raises(RuntimeError, match="PATCH /file/info"):
        RuleTable([("PATCH", "/file/info")])


def test_parameters_are_a_matter_of_each_framework() -> None:
    table = RuleTable([("GET", "/files/{path:path}"), ("PATCH", "/file/tus/{id}"), ("GET", "/sockets/{any}")])
    assert table.match("GET", "/files/a/b/c").source is Source.ADDRESS
    assert table.match("HEAD", "/files/a").verb == "read"
    assert table.match("PATCH", "/file/tus/7").verb == "write"
    for path in ("/file/tus/", "/file/tus/a/b", "/file/tus", "/sockets", "/sockets/a/messages", "/file", "/files"):
        with pytest.raises(NotFound):
            table.match("GET", path)
    with pytest.raises(MethodNotAllowed) as caught:
        table.match("DELETE", "/files/a")
    assert caught.value.headers == {"allow": "GET, HEAD"}
    assert find_rule("HEAD", "/file") == find_rule("GET", "/file")
    assert find_rule("GET", "/other") is None


def test_tokens_of_header_fields() -> None:
    assert find_token([]) is None
    for value in (b"Bearer abc", b"bearer abc", b"BEARER   abc  "):
        assert find_token([(b"authorization", value)]) == "abc"
    for value in (b"", b"Bearer", b"Bearer ", b"Basic abc", b"abc", b"Bearerabc", b"\tBearer abc"):
        with pytest.raises(Unauthorized):
            find_token([(b"authorization", value)])
    with pytest.raises(BadRequest):
        find_token([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer a")])


def test_tokens_of_subprotocols() -> None:
    assert find_socket_token([], []) is None
    assert find_socket_token([], ["cloudevents.json", "bearer.abc"]) == "abc"
    assert find_socket_token([], ["Bearer.abc", "cloudevents.json"]) == "abc"
    assert find_socket_token([(b"authorization", b"Bearer x")], ["cloudevents.json"]) == "x"
    for headers, offered in (
        ([], ["bearer.abc"]),
        ([], ["bearer.abc", "bearer.def", "cloudevents.json"]),
        ([(b"authorization", b"Bearer x")], ["cloudevents.json", "bearer.abc"]),
    ):
        with pytest.raises(BadRequest):
            find_socket_token(headers, offered)


@pytest.mark.parametrize("kind", [list, tuple])
def test_the_scope_of_a_socket_keeps_no_token(kind: type) -> None:
    """Of a list the same object loses it: what else holds it, as the log of refusals does, holds the token no longer."""
    host = (b"host", b"a.example")
    headers = kind(
        [host, (b"authorization", b"Bearer abc"), (b"sec-websocket-protocol", b"cloudevents.json, bearer.abc")]
    )
    scope: dict[str, Any] = {"headers": headers, "subprotocols": ["cloudevents.json", "Bearer.abc"]}
    drop_socket_token(scope)
    assert scope == {"headers": [host], "subprotocols": ["cloudevents.json"]}
    assert kind is tuple or scope["headers"] is headers


def test_a_sid_is_of_its_subject_alone() -> None:
    now = [1000.0]
    stamp = "1970-01-01T00:20:00Z"
    signer = SidSigner(parse_key_ring(f"k1 {SECRET}"), lambda: now[0])
    rotated = SidSigner(parse_key_ring(f"k2 {OTHER_SECRET},k1 {SECRET} {stamp}"), lambda: now[0])
    sid = signer.new_sid("alice")
    assert len(sid) == 52
    assert sid != signer.new_sid("alice")
    assert signer.is_owner("alice", sid)
    assert rotated.is_owner("alice", sid)
    for subject in ("bob", "", "alic", "alice "):
        assert not signer.is_owner(subject, sid)
    assert not signer.is_owner("", signer.new_sid(""))
    assert not signer.is_owner("alice", base64.b32encode(secrets.token_bytes(32)).decode().rstrip("="))
    now[0] = 1200.0
    assert not rotated.is_owner("alice", sid)
    assert signer.is_owner("alice", sid)


def test_no_other_spelling_of_a_sid_is_accepted() -> None:
    signer = SidSigner(parse_key_ring(f"k1 {SECRET}"), time.time)
    sid = signer.new_sid("alice")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    for position in range(52):
        for character in alphabet:
            other = f"{sid[:position]}{character}{sid[position + 1 :]}"
            assert signer.is_owner("alice", other) is (other == sid)
    for other in (sid.lower(), f"{sid}=", sid[:-1], f" {sid[1:]}", "\u00e9" * 52, ""):
        assert not signer.is_owner("alice", other)


@pytest.mark.parametrize(
    ("method", "target", "token", "error"),
    [
        ("GET", "/files/a/x", "read:a", None),
        ("GET", "/files/x", "read:a", Forbidden),
        ("GET", "/files/x", "read:", None),
        ("GET", "/files/a%20b/x", "read:a%20b", None),
        ("GET", "/files/a%2Fb/x", "read:a/b", BadRequest),
        ("GET", "/file/stream?filename=x&folder=a", "read:a", None),
        ("GET", "/file/stream?filename=x", "read:a", Forbidden),
        ("GET", "/file/stream?filename=x&folder=a&folder=b", "read:a", BadRequest),
        ("GET", "/file/stream?filename=x&folder=%ff", "read:a", BadRequest),
        ("GET", "/file/stream?filename=x&folder=..", "read:a", BadRequest),
        ("GET", "/files/a/x?folder=b", "read:b", Forbidden),
        ("GET", "/file", "read:a", None),
        ("GET", "/file", "write", Forbidden),
        ("GET", "/file?folder=a", "read:a", None),
        ("GET", "/file?folder=b", "read:a", Forbidden),
        ("GET", "/file?folder=", "read:a", Forbidden),
        ("GET", "/file/folders", "read:a", None),
        ("PUT", "/files/a/x", "read:a", Forbidden),
        ("DELETE", "/files/a/x", "write:a", Forbidden),
        ("DELETE", "/files/a/x", "admin", None),
        ("POST", "/file/upload", "write:a", BadRequest),
        ("POST", "/file/upload?folder=a", "write:a", None),
        ("POST", "/file/upload?folder=", "write:a", Forbidden),
        ("POST", "/file/upload", "write", None),
        ("POST", "/file/upload", "read", Forbidden),
        ("POST", "/sockets/messages", "push:a", Forbidden),
        ("POST", "/sockets/messages?topic=a", "push:a", None),
        ("POST", "/sockets/messages?topic=b", "push:a", Forbidden),
        ("POST", "/sockets/messages?topic=a&topic=b", "push:a", BadRequest),
        ("POST", "/sockets/messages", "push", None),
        ("GET", "/sockets", "listen", Forbidden),
        ("GET", "/sockets", "sockets", None),
        ("GET", "/sockets/x", "sockets", None),
        ("GET", "/sockets/x", "push", Forbidden),
        ("POST", "/sockets/x/messages", "push:a", Forbidden),
        ("PATCH", "/file/tus/x", "write:a", None),
        ("PATCH", "/file/tus/x", "read", Forbidden),
    ],
)
def test_rules(method: str, target: str, token: str, error: type[GridcastError] | None) -> None:
    scope = scope_of(method, target, token)
    if error is None:
        authorization().authorize_now(scope)
        return
    with pytest.raises(error):
        authorization().authorize_now(scope)
    assert identity_of(scope) is None
