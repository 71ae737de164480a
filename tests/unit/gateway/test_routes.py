"""The gateway's routes: every row of the contract, and that no path is ambiguous."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import routes
from gateway.routes import GATEWAY, LIVE, SOCKET, STREAM, UPLOAD
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
        ("GET", "/upload/6740f3c2-6740f3c3-00ff/stream", STREAM),
        ("HEAD", "/upload/6740f3c2-6740f3c3-00ff/stream", STREAM),
        ("GET", "/upload/6740f3c2-6740f3c3-00ff/media.m3u8", STREAM),
        ("GET", "/upload/6740f3c2-6740f3c3-00ff/media.mp4", STREAM),
        ("GET", "/live/6740f3c2/messages", STREAM),
        ("POST", "/live/6740f3c2/messages", LIVE),
        ("GET", f"/upload/6740f3c2-6740f3c3-00ff.{'a2' * 500}/stream", STREAM),
        ("GET", "/sockets", SOCKET),
        ("GET", "/sockets/ABC", SOCKET),
        ("DELETE", "/sockets/ABC", SOCKET),
        ("POST", "/sockets/ABC/messages", SOCKET),
        ("POST", "/sockets/messages", SOCKET),
        ("POST", "/live", LIVE),
        ("GET", "/live", LIVE),
        ("GET", "/live/6740f3c2", LIVE),
        ("DELETE", "/live/6740f3c2", LIVE),
        ("POST", "/live/6740f3c2/end", LIVE),
        ("OPTIONS", "/live/6740f3c2/tus", LIVE),
        ("PATCH", "/live/6740f3c2/tus", LIVE),
        ("PUT", "/live/6740f3c2/media", LIVE),
        ("PUT", "/live/6740f3c2/media/init-stream0.m4s", LIVE),
        ("PUT", "/live/6740f3c2/media/12.m4s", LIVE),
        ("DELETE", "/live/6740f3c2/media/index.m3u8", LIVE),
        ("POST", "/live/6740f3c2/key/-_Az09/media", LIVE),
        ("PUT", "/live/6740f3c2/key/_token/media/init.mp4", LIVE),
        ("GET", "/live/6740f3c2/index.m3u8", STREAM),
        ("HEAD", "/live/6740f3c2/media.m3u8", STREAM),
        ("GET", "/live/6740f3c2/0/init.mp4", STREAM),
        ("GET", "/live/6740f3c2/0/12.m4s", STREAM),
        ("HEAD", "/live/6740f3c2/17/43199.m4s", STREAM),
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
        ("PUT", "/live/x/index.m3u8", "GET, HEAD, OPTIONS"),
        ("PUT", "/live/x/0/1.m4s", "GET, HEAD, OPTIONS"),
        ("GET", "/live/x/media/1.m4s", "DELETE, OPTIONS, POST, PUT"),
    ],
)
def test_method_not_allowed_lists_the_allowed_methods(method: str, path: str, allow: str) -> None:
    with pytest.raises(MethodNotAllowed) as refused:
        routes.match_route(method, path)
    assert refused.value.headers["allow"] == allow


@pytest.mark.parametrize(
    "path",
    [
        "/ws",
        "/File",
        "/file/",
        "/file/stream/x",
        "/sockets/",
        "/sockets/a/b",
        "/sockets/%41",
        "/metrics",
        "",
        "file",
        "/live/",
        "/live/x/other.m3u8",
        "/live/x/0/1.mp4",
        "/live/x/0/.m4s",
        "/live/x/0/1/2.m4s",
        "/live/x/key",
        "/live/x/key/media",
        "/live/x/key/to.ken/media",
    ],
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


@pytest.mark.parametrize("service", [UPLOAD, STREAM, SOCKET, LIVE, GATEWAY])
def test_each_template_is_found_by_its_own_example(service: str) -> None:
    """No pattern hides one that comes after it."""
    for method, template in routes.routed_operations(service) - {("OPTIONS", "/file/tus")}:
        example = re.sub(r"\{[a-z]+\}", "x1", template)
        assert routes.match_route(method, example).template == template


def test_only_the_bodies_of_publishers_may_be_silent() -> None:
    endless = {template for _, template in routes.all_operations() if is_endless(template)}
    assert endless == {
        template for _, template in routes.routed_operations(LIVE) if re.search("/(?:tus|media)", template)
    }


def is_endless(template: str) -> bool:
    path = re.sub(r"\{[a-z]+\}", "x1", template)
    return any(route.is_endless and route.is_media for route in routes.methods_of(path).values())


def test_each_service_documents_only_its_own_operations() -> None:
    assert ("GET", "/file/stream") in routes.routed_operations(STREAM)
    assert ("PUT", "/file/stream") in routes.routed_operations(UPLOAD)
    assert not routes.routed_operations(STREAM) & routes.routed_operations(UPLOAD)
