"""Single requests of the client without I/O: errors by status, retries, tokens, paths, URLs."""

import base64
import json
from collections.abc import Awaitable
from pathlib import Path

import pytest

from gridcast import errors
from gridcast._flows import single_requests
from gridcast._flows.effects import HttpRequest, HttpResponse
from gridcast._flows.remote_path import file_target, split_path
from gridcast._flows.retries import send
from gridcast._server_url import parse_server_url
from gridcast._tokens import TokenCache
from gridcast.cli.commands import tokens
from services.common.auth.key_ring import parse_key_ring
from services.common.auth.minting import mint_token
from services.common.auth.rights import VERBS
from tests.support.client_model import ModelServer, problem


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, errors.UnexpectedResponse),
        (400, errors.InvalidRequest),
        (401, errors.AuthenticationRequired),
        (403, errors.PermissionDenied),
        (404, errors.FileMissing),
        (409, errors.NameConflict),
        (410, errors.FileMissing),
        (412, errors.NameConflict),
        (413, errors.LimitExceeded),
        (415, errors.InvalidRequest),
        (421, errors.InvalidRequest),
        (429, errors.LimitExceeded),
        (500, errors.UnexpectedResponse),
        (502, errors.ServerUnavailable),
        (503, errors.ServerUnavailable),
        (504, errors.ServerUnavailable),
        (507, errors.LimitExceeded),
    ],
)
def test_each_status_is_one_error_with_the_request_id(status: int, kind: type[errors.RequestError]) -> None:
    server = ModelServer(on_request=lambda _server, _request: problem(status, "why"))
    with pytest.raises(kind) as caught:
        server.run(single_requests.get_info(server.context(), "a"))
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.request_id, caught.value.detail) == (status, "r1", "why")
    assert str(caught.value) == f"why (status {status}, request r1)"
    assert len(server.requests) == (4 if status in {429, 502, 503, 504} else 1)


def test_retries_hear_retry_after_and_double_their_delay() -> None:
    server = ModelServer(iter(["503", "refused", "lost"]), {"a": b"x"})
    server.run(single_requests.get_info(server.context(), "a"))
    assert server.sleeps == [3.0, 1.0, 2.0]


def test_what_is_not_repeatable_is_repeated_only_if_it_was_not_sent() -> None:
    request = HttpRequest("PUT", "/files/a", {}, b"x")
    server = ModelServer(iter(["refused", "lost"]))
    with pytest.raises(errors.ServerUnavailable):
        server.run(send(server.context(), request, accepted={201}, is_repeatable=False))
    assert len(server.requests) == 2


def test_a_refused_token_is_renewed_once() -> None:
    def refuse_old(_server: ModelServer, request: HttpRequest) -> HttpResponse | None:
        return problem(401, "expired") if request.headers["authorization"] == "Bearer old" else None

    server = ModelServer(files={"a": b"x"}, tokens=iter(["old", "new"]), on_request=refuse_old)
    assert server.run(single_requests.get_info(server.context(), "a")).length == 1
    server.tokens = iter(["old", "old"])
    with pytest.raises(errors.AuthenticationRequired):
        server.run(single_requests.get_info(server.context(), "a"))
    assert len(server.requests) == 3


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"files": 1}', b"\xff"])
def test_other_servers_are_recognised(body: bytes) -> None:
    server = ModelServer(on_request=lambda _server, _request: HttpResponse(200, {}, body))
    for flow in (
        single_requests.get_info(server.context(), "a"),
        single_requests.list_files(server.context(), None, "", None),
        single_requests.list_folders(server.context(), None),
        single_requests.push(server.context(), ("all", None), ("t", None, "1"), None),
    ):
        with pytest.raises(errors.UnexpectedResponse):
            server.run(flow)


@pytest.mark.parametrize("status", [200, 206])
def test_another_range_is_refused(status: int) -> None:
    headers = {"content-range": "bytes 0-1/9"}
    server = ModelServer(on_request=lambda _server, _request: HttpResponse(status, headers, b"ab"))
    with pytest.raises(errors.UnexpectedResponse):
        server.run(single_requests.read_range(server.context(), "a", '"e"', 3, 2))


def test_details_are_bounded_and_printable() -> None:
    text = json.dumps({"detail": "a\x1b[31m" + "b" * 9000}).encode()
    server = ModelServer(on_request=lambda _server, _request: HttpResponse(400, {}, text))
    with pytest.raises(errors.InvalidRequest) as caught:
        server.run(single_requests.get_info(server.context(), "a"))
    assert len(caught.value.detail) == 500
    assert "\x1b" not in caught.value.detail


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("a.mp4", "/files/a.mp4"),
        ("a b/100%.mp4", "/files/a%20b/100%25.mp4"),
        ("d/ü;?#.mp4", "/files/d/%C3%BC%3B%3F%23.mp4"),
    ],
)
def test_paths_are_encoded(path: str, target: str) -> None:
    assert file_target(path) == target


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "../a", "a/./b"])
def test_paths_that_mean_something_else_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="folder/name"):
        split_path(path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "ftp://a",
        "http://",
        "http://u:p@a",
        "http://a/b",
        "http://a?x",
        "http://a:x",
        "http://[::1",
    ],
)
def test_urls_that_are_no_origin_are_refused_without_quoting_them(url: str) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        parse_server_url(url)
    assert "u:p" not in str(caught.value)


def test_urls() -> None:
    assert parse_server_url("HTTPS://Media.example/").origin == "https://media.example"
    assert parse_server_url("http://[::1]:8000").websocket == "ws://[::1]:8000"


@pytest.mark.parametrize(
    ("event", "target", "wait"),
    [
        (("t", float("nan"), "1"), ("all", None), None),
        (("t", object(), "1"), ("all", None), None),
        (("t", None, "1"), ("sid", "../x"), None),
        (("t", None, "1"), ("sid", "A"), 31.0),
        (("t", None, "1"), ("sid", "A"), float("nan")),
    ],
)
def test_pushes_that_cannot_be_sent(
    event: tuple[str, object, str], target: tuple[str, str | None], wait: float | None
) -> None:
    server = ModelServer()
    with pytest.raises(errors.InvalidRequest):
        server.run(single_requests.push(server.context(), target, event, wait))
    assert server.requests == []


def jwt(expiry: float) -> str:
    payload = base64.urlsafe_b64encode(json.dumps({"exp": expiry}).encode()).decode().rstrip("=")
    return f"e30.{payload}.c2ln"


def test_a_callback_is_asked_before_its_token_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.time", lambda: now)
    asked: list[float] = []

    def callback() -> str:
        asked.append(now)
        return jwt(now + 300)

    cache = TokenCache(callback)
    for now in (1000.0, 1100.0, 1269.0, 1271.0):  # noqa: B007 - read by the functions above
        cache.get(renew=False)
    assert asked == [1000.0, 1271.0]
    cache.get(renew=True)
    assert len(asked) == 3


def test_a_token_file_is_read_again_once_its_token_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.time", lambda: now)
    file = tmp_path / "token"
    file.write_text(f"{jwt(1300)}\n", "ascii")
    cache = TokenCache(file)
    assert cache.get(renew=False) == jwt(1300)
    file.write_text(jwt(1600), "ascii")
    assert cache.get(renew=False) == jwt(1300)
    now = 1271.0
    assert cache.get(renew=False) == jwt(1600)
    for content in (b"", b"one two", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(errors.InvalidRequest, match="holds no token"):
            cache.get(renew=True)
    file.unlink()
    with pytest.raises(errors.InvalidRequest, match="cannot be read"):
        cache.get(renew=True)


def test_what_is_no_token_is_refused() -> None:
    with pytest.raises(errors.InvalidRequest, match="a token is"):
        TokenCache(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "secret", ["f3a1c9d07b52e84661d0aa97c4be8f13", "k1 f3a1c9d07b52e84661d0aa97c4be8f13 2090-01-01T00:00Z"]
)
def test_minted_tokens_are_those_of_the_server(secret: str) -> None:
    """The command needs nothing of the server; name, signature and form are the same."""
    key = parse_key_ring(f"{secret},\nold f3a1c9d07b52e84661d0aa97c4be8f14").signing_key
    claims = {"sub": "alice", "exp": 7, "scope": "read"}
    assert tokens.parse_secret(f"{secret},\nold x") == (key.kid, key.secret)
    assert tokens.sign(key.kid, key.secret, claims) == mint_token(key, claims)
    assert set(tokens.GRANTABLE_VERBS) == VERBS


@pytest.mark.parametrize("text", ["", ",\n", "short", "a b c d"])
def test_a_malformed_secret_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        tokens.parse_secret(text)
    assert not text.strip() or text not in str(caught.value)


def test_tokens_that_no_header_holds_are_refused() -> None:
    for token in ("", "a b", "a\nb", "ü"):
        with pytest.raises(errors.InvalidRequest):
            TokenCache(token)

    async def later() -> str:
        return "x"

    def callback() -> Awaitable[str]:
        return later()

    with pytest.raises(errors.InvalidRequest, match="AsyncClient"):
        TokenCache(callback).get(renew=False)
    assert "secret" not in repr(TokenCache("secret"))
