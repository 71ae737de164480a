"""Path addresses of files through the gateway: each name, each refused spelling, and the clients that resolve relative links."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings

from services.common.media import MediaName, validate_media_name
from services.common.media_path import media_path
from tests.support.media_names import AWKWARD_NAMES, REFUSED_PATHS, media_names
from tests.support.programs import require_program
from tests.support.stack import Stack


class Answer(NamedTuple):
    """A response with its whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


def exchange(url: str, method: str, target: str, body: bytes | None = None, /, **headers: str) -> Answer:
    """Send one request whose target is exactly this."""
    parts = urlsplit(url)
    with closing(HTTPConnection(parts.hostname or "", parts.port, timeout=20)) as connection:
        connection._validate_path = lambda _: None  # type: ignore[attr-defined]  # http.client refuses some that are tested here
        connection.request(method, target, body, {key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        return Answer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())


def query_of(name: MediaName) -> str:
    return urlencode({"filename": name.filename, "folder": name.folder})


def check_name(stack: Stack, name: MediaName) -> None:
    """Store a file by its path address, read it in both forms, and delete it by its path address."""
    address, data = media_path(name), f"{name}".encode()
    by_query = f"/file/stream?{query_of(name)}"
    stored = exchange(stack.url, "PUT", address, data)
    assert stored.status == 201, stored
    assert (stored.json["folder"], stored.json["filename"]) == (name.folder, name.filename)
    assert stored.headers["location"] == address
    for target in (address, by_query, address):
        assert exchange(stack.url, "GET", target).body == data
        head = exchange(stack.url, "HEAD", target)
        assert (head.status, head.headers["content-length"]) == (200, str(len(data)))
        assert head.headers["etag"] == stored.headers["etag"]
    assert exchange(stack.url, "GET", f"/file/info?{query_of(name)}").json == stored.json
    assert exchange(stack.url, "PUT", address, b"2").status == 200
    assert exchange(stack.url, "DELETE", address).status == 204
    assert exchange(stack.url, "GET", address, cache_control="no-cache").status == 404
    assert exchange(stack.url, "GET", by_query, cache_control="no-cache").status == 404


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=media_names())
def test_every_name_is_one_file_in_both_forms(stack: Stack, name: MediaName) -> None:
    check_name(stack, name)


@pytest.mark.parametrize("filename", AWKWARD_NAMES)
def test_awkward_names_are_one_file_in_both_forms(stack: Stack, filename: str) -> None:
    check_name(stack, validate_media_name(f"awkward/{filename}", filename))


def service_urls(stack: Stack, method: str) -> Iterator[str]:
    """The gateway and the service behind it, which refuses the same."""
    yield stack.url
    yield stack.urls["upload-1" if method in {"PUT", "DELETE"} else "stream-1"]


@pytest.mark.parametrize(("path", "fault"), [(path, fault) for path, fault in REFUSED_PATHS if path.isascii()])
def test_refused_spellings_are_400_and_name_the_fault(stack: Stack, path: str, fault: str) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        for url in service_urls(stack, method):
            answer = exchange(url, method, path, b"x" if method == "PUT" else None)
            # A line break that is encoded reaches no route of a service; the gateway names it.
            assert answer.status == 400 or (url != stack.url and answer.status == 404), (url, method, answer)
            if method != "HEAD" and answer.status == 400:
                assert re.search(fault, answer.json["detail"]), answer.json
                assert answer.headers["content-type"] == "application/problem+json"


def test_answers_are_those_of_the_query_form(stack: Stack) -> None:
    name = MediaName("both", "a.webm")
    address, by_query = media_path(name), f"/file/stream?{query_of(name)}"
    etag = exchange(stack.url, "PUT", address, bytes(range(256)) * 1000).headers["etag"]
    for method in ("GET", "HEAD"):
        conditions: list[dict[str, str]] = [
            {},
            {"range": "bytes=10-19"},
            {"range": "bytes=0-9,100-109"},
            {"range": "bytes=900000-"},
            {"if_none_match": etag},
            {"if_match": '"x"'},
            {"range": "bytes=5-6", "if_range": etag},
        ]
        for headers in conditions:
            answers = [exchange(stack.url, method, target, **headers) for target in (address, by_query)]
            for one in answers:
                for varying in ("date", "x-request-id"):
                    one.headers.pop(varying)  # type: ignore[attr-defined]
            assert answers[0] == answers[1], (method, headers)
    missing = exchange(stack.url, "GET", "/files/both/missing")
    assert (missing.status, missing.json["detail"]) == (404, "file not found")


def test_other_methods_and_options(stack: Stack) -> None:
    allow = "DELETE, GET, HEAD, OPTIONS, PUT"
    for method in ("POST", "PATCH"):
        answer = exchange(stack.url, method, "/files/a", b"x")
        assert (answer.status, answer.headers["allow"]) == (405, allow)
    options = exchange(stack.url, "OPTIONS", "/files/a")
    assert (options.status, options.headers["allow"]) == (204, allow)
    for service in ("stream-1", "upload-1"):
        assert exchange(stack.urls[service], "POST", "/files/a", b"x").status == 405


def test_query_of_a_path_address_names_nothing(stack: Stack) -> None:
    assert exchange(stack.url, "PUT", "/files/query/a.txt?sid=nobody&filename=b.txt", b"1").status == 201
    assert exchange(stack.url, "GET", "/files/query/a.txt?v=2&folder=x").body == b"1"
    assert exchange(stack.url, "GET", "/file/stream?filename=b.txt&folder=query").status == 404
    assert exchange(stack.url, "DELETE", "/files/query/a.txt?filename=b.txt").status == 204


def test_preconditions_and_digests_of_put_and_delete(stack: Stack) -> None:
    address = "/files/conditions/a"
    stored = exchange(stack.url, "PUT", address, b"1", if_none_match="*")
    assert stored.status == 201
    assert exchange(stack.url, "PUT", address, b"2", if_none_match="*").status == 412
    assert exchange(stack.url, "PUT", address, b"2", content_digest="sha-256=:AAAA:").status == 400
    assert exchange(stack.url, "DELETE", address, if_match='"x"').status == 412
    assert exchange(stack.url, "DELETE", address, if_match=stored.headers["etag"]).status == 204


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_uploads_to_a_folder_and_wget_names_the_file(stack: Stack, tmp_path: Path) -> None:
    """`curl -T` appends the name to an address that ends with a slash, percent-encoded."""
    source = tmp_path / "100% a;b 🎬.txt"
    source.write_bytes(b"hello")
    curl = require_program("curl", "curl")
    status = ["-sS", "-o", "/dev/null", "-w", "%{http_code}"]
    assert run(curl, *status, "-T", source, f"{stack.url}/files/tools/") == "201"
    address = f"{stack.url}{media_path(MediaName('tools', source.name))}"
    assert run(curl, "-sS", address) == "hello"
    target = tmp_path / "target"
    target.mkdir()
    run(require_program("wget", "wget"), "-q", "--restrict-file-names=nocontrol", address, cwd=target)
    assert (target / source.name).read_bytes() == b"hello"
    assert run(curl, *status, "-X", "PUT", "--data-binary", "x", f"{stack.url}/files/tools/") == "400"
    assert run(curl, *status, "-X", "DELETE", address) == "204"


def put_folder(stack: Stack, folder: str, source: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            name = f"{folder}/{path.relative_to(source).as_posix()}"
            put = MediaName(*name.rsplit("/", 1))
            assert exchange(stack.url, "PUT", media_path(put), path.read_bytes()).status == 201


@pytest.mark.parametrize(
    ("manifest", "options"),
    [
        ("out.m3u8", ["-f", "hls", "-hls_time", "1", "-hls_list_size", "0"]),
        ("out.m3u8", ["-f", "hls", "-hls_time", "1", "-hls_list_size", "0", "-hls_segment_filename", "a+b=@[%d],'.ts"]),
        ("out.mpd", ["-f", "dash", "-seg_duration", "1"]),
    ],
    ids=["hls", "hls-with-reserved-characters", "dash"],
)
def test_presentations_play_as_they_are(
    stack: Stack, ffmpeg: str, tmp_path: Path, manifest: str, options: list[str]
) -> None:
    """What ffmpeg has written refers to its segments relative to the manifest."""
    source = tmp_path / "made"
    source.mkdir()
    picture = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=5:d=3", "-c:v", "libx264", "-g", "5", "-pix_fmt", "yuv420p"]
    run(ffmpeg, "-v", "error", *picture, *options, manifest, cwd=source)
    folder = f"shows/{tmp_path.name}"
    put_folder(stack, folder, source)
    probe = [require_program("ffprobe", "ffmpeg"), "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0"]
    assert float(run(*probe, f"{stack.url}/files/{folder}/{manifest}")) == pytest.approx(3, abs=0.5)


def test_relative_links_of_a_document_resolve(stack: Stack, tmp_path: Path) -> None:
    links = {"style.css": "site/style.css", "../cover%20a.png": "cover a.png", "subs/de.vtt": "site/subs/de.vtt"}
    for content in links.values():
        folder, _, filename = f"doc/{content}".rpartition("/")
        assert exchange(stack.url, "PUT", media_path(MediaName(folder, filename)), content.encode()).status == 201
    page = "".join(f'<a href="{link}">x</a>' for link in links)
    stored = exchange(stack.url, "PUT", "/files/doc/site/index.html", page.encode())
    base = urljoin(stack.url, stored.headers["location"])
    for link in re.findall('href="([^"]+)"', httpx.get(base).text):
        assert exchange(stack.url, "GET", urlsplit(urljoin(base, link)).path).body == links[link].encode()
