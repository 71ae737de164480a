"""The gateway's routes: every row of the contract, and that no path is ambiguous."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import routes
from gateway.routes import GATEWAY, SOCKET, STREAM, UPLOAD
from services.common.errors import BadRequest, MethodNotAllowed, NotFound


@pytest.mark.parametrize(
    ("method", "path", "service"),
    [
        ("POST", "/file/upload", UPLOAD),
        ("PUT", "/file/stream", UPLOAD),
        ("DELETE", "/file/stream", UPLOAD),
        ("OPTIONS", "/file/tus", UPLOAD),
        ("POST", "/file/tus", UPLOAD),
        ("HEAD", "/file/tus/6740f3c2", UPLOAD),
        ("PATCH", "/file/tus/6740f3c2", UPLOAD),
        ("DELETE", "/file/tus/6740f3c2", UPLOAD),
        ("POST", "/file/tus/6740f3c2", UPLOAD),
        ("GET", "/file/stream", STREAM),
        ("HEAD", "/file/stream", STREAM),
        ("GET", "/file", STREAM),
        ("GET", "/file/folders", STREAM),
        ("GET", "/file/info", STREAM),
        ("GET", "/sockets", SOCKET),
        ("GET", "/sockets/ABC", SOCKET),
        ("DELETE", "/sockets/ABC", SOCKET),
        ("POST", "/sockets/ABC/messages", SOCKET),
        ("POST", "/sockets/messages", SOCKET),
        ("GET", "/", GATEWAY),
        ("GET", "/docs", GATEWAY),
        ("GET", "/openapi.json", GATEWAY),
        ("GET", "/livez", GATEWAY),
        ("GET", "/readyz", GATEWAY),
        ("GET", "/version", GATEWAY),
        ("GET", "/status", GATEWAY),
        ("GET", "/page/index.js", GATEWAY),
        ("GET", "/client/index.js", GATEWAY),
    ],
)
def test_public_routes_match_the_contract(method: str, path: str, service: str) -> None:
    assert routes.match_route(method, path).service == service


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/file/stream", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("GET", "/file/upload", "OPTIONS, POST"),
        ("GET", "/sockets/messages", "OPTIONS, POST"),
        ("PUT", "/file/tus/x", "DELETE, HEAD, OPTIONS, PATCH, POST"),
        ("TRACE", "/", "GET, HEAD, OPTIONS"),
    ],
)
def test_method_not_allowed_lists_the_allowed_methods(method: str, path: str, allow: str) -> None:
    with pytest.raises(MethodNotAllowed) as refused:
        routes.match_route(method, path)
    assert refused.value.headers["allow"] == allow


@pytest.mark.parametrize(
    "path",
    ["/ws", "/File", "/file/", "/file/stream/x", "/sockets/", "/sockets/a/b", "/sockets/%41", "/metrics", "", "file"],
)
def test_an_unknown_path(path: str) -> None:
    with pytest.raises(NotFound):
        routes.match_route("GET", path)


@pytest.mark.parametrize(
    "path",
    [
        "//file",
        "/file//info",
        "/file/../sockets",
        "/./file",
        "/file/..",
        "/file/%2e%2e/x",
        "/file/%2Finfo",
        "/file%5Cinfo",
        "/file\\info",
        "/file%00",
        "/file%0A",
        "/file%0d",
        "/sockets/%252e",
        "/file;a=b",
        "/sockets/a;b/messages",
    ],
)
def test_ambiguous_path_is_rejected(path: str) -> None:
    with pytest.raises(BadRequest):
        routes.match_route("GET", path)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60).map("/".__add__))
def test_routes_match_without_decoding(path: str) -> None:
    """Any path either names one resource literally, or is rejected: never after decoding, collapsing or truncating."""
    try:
        found = routes.methods_of(path)
    except (BadRequest, NotFound):
        return
    assert found
    assert not set(path) & set("%;\\?#")
    assert "//" not in path
    assert not {".", ".."} & set(path.split("/"))


def test_each_service_documents_only_its_own_operations() -> None:
    assert ("GET", "/file/stream") in routes.routed_operations(STREAM)
    assert ("PUT", "/file/stream") in routes.routed_operations(UPLOAD)
    assert not routes.routed_operations(STREAM) & routes.routed_operations(UPLOAD)
