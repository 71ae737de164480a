"""Path addresses of files through the gateway: curl and wget, relative links, names with special characters, refusals."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, run_service
from tests.support.raw_sockets import receive_until_closed
from tests.support.scripted_upstream import open_connection
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, mongod: ServerProcess, redis_server: ServerProcess
) -> Iterator[ServiceProcess]:
    logs = tmp_path_factory.mktemp("path_addresses")
    env = storage_env(mongod, redis_server.url, "path_addresses")
    with run_service("services.upload", logs, env) as upload, run_service("services.stream", logs, env) as stream:
        urls = {"GRIDCAST_UPLOAD_URLS": upload.url, "GRIDCAST_STREAM_URLS": stream.url}
        with run_service("gateway", logs, urls, ready=False) as gateway:
            eventually(lambda: "running on" in gateway.log, 10)
            yield gateway


def test_one_file_has_two_addresses(gateway: ServiceProcess) -> None:
    """Range, conditions and headers are those of the query form, out of the cache as well."""
    body = bytes(range(256)) * 400
    with httpx.Client(base_url=gateway.url) as client:
        created = client.put("/files/a/b/c.mp4", content=body)
        assert (created.status_code, created.headers["location"]) == (201, "/files/a/b/c.mp4")
        query = {"folder": "a/b", "filename": "c.mp4"}
        for _ in range(3):
            for headers in (
                {},
                {"range": "bytes=1-70000"},
                {"range": "bytes=5-9"},
                {"if-none-match": created.headers["etag"]},
            ):
                by_path, by_query = (
                    client.get("/files/a/b/c.mp4", headers=headers),
                    client.get("/file/stream", params=query, headers=headers),
                )
                assert by_path.content == by_query.content
                assert by_path.status_code == by_query.status_code
                same = {
                    "content-type",
                    "etag",
                    "content-range",
                    "content-disposition",
                    "accept-ranges",
                    "content-length",
                }
                assert {name: by_path.headers.get(name) for name in same} == {
                    name: by_query.headers.get(name) for name in same
                }
        assert client.head("/files/a/b/c.mp4").headers["content-length"] == str(len(body))
        assert client.put("/files/a/b/c.mp4", content=b"new").status_code == 200
        assert client.get("/file/stream", params=query).content == b"new"
        assert client.put("/files/a/b/c.mp4", content=b"no", headers={"if-none-match": "*"}).status_code == 412
        assert client.delete("/files/a/b/c.mp4").status_code == 204
        assert client.get("/files/a/b/c.mp4").status_code == 404
        assert client.delete("/files/a/b/c.mp4").status_code == 404
        refused = client.post("/files/a/b/c.mp4", content=b"x")
        assert (refused.status_code, refused.headers["allow"]) == (405, "DELETE, GET, HEAD, OPTIONS, PUT")


@pytest.mark.parametrize(
    "filename", ["100%.mp4", "a;b.mp4", "a b.mp4", "\U0001f3ac.mp4", "%25", "a?b#c", "é", "+&=@!'()*", "a%2Fb"]
)
def test_name_reaches_its_file_by_its_address_alone(gateway: ServiceProcess, filename: str) -> None:
    with httpx.Client(base_url=gateway.url) as client:
        path = f"/files/f%20{quote(filename, safe='')}/{quote(filename, safe='')}"
        assert client.put(path, content=filename.encode()).status_code == 201
        assert client.get(path).text == filename
        listed = client.get("/file/info", params={"folder": f"f {filename}", "filename": filename}).json()
        assert (listed["folder"], listed["filename"]) == (f"f {filename}", filename)


@pytest.mark.parametrize(
    "target",
    [
        "/files/",
        "/files/a/",
        "/files/a//b",
        "/files/../file",
        "/files/%2e%2e/a",
        "/files/a%2fb",
        "/files/a;b",
        "/files/a%",
        "/files/%ff",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_ambiguous_address_is_refused_with_a_reason(gateway: ServiceProcess, method: str, target: str) -> None:
    with open_connection(gateway.port) as client:
        client.sendall(
            f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        answer = receive_until_closed(client)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"path" in answer.partition(b"\r\n\r\n")[2]


def test_curl_and_wget_take_names_from_paths(gateway: ServiceProcess, tmp_path: Path) -> None:
    source = tmp_path / "a clip.mp4"
    source.write_bytes(b"clip")
    subprocess.run(["curl", "-sS", "--fail", "-T", source, f"{gateway.url}/files/demo/"], check=True)
    assert (
        httpx.get(f"{gateway.url}/file/stream", params={"folder": "demo", "filename": "a clip.mp4"}).content == b"clip"
    )
    download = tmp_path / "down"
    download.mkdir()
    subprocess.run(["curl", "-sS", "--fail", "-O", f"{gateway.url}/files/demo/a%20clip.mp4"], check=True, cwd=download)
    assert [path.read_bytes() for path in download.iterdir()] == [b"clip"]


def test_addresses_have_one_label_in_the_metrics_and_the_log_has_the_path(gateway: ServiceProcess) -> None:
    httpx.put(f"{gateway.url}/files/x/y.bin", content=b"y")
    httpx.get(f"{gateway.url}/files/x/y.bin")
    eventually(lambda: '"path": "/files/x/y.bin"' in gateway.log, 5, "lines are written a moment after their answers")
