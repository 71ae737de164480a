"""Download tools as clients: curl with ranges and conditions, aria2c with 16 connections."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.support.databases import ServerProcess
from tests.support.media_library import MediaServices, run_media_services
from tests.support.programs import require_program
from tests.support.sizes import CHUNK_SIZE

SIZE = 20 * 1024 * 1024 + 12345


@pytest.fixture(scope="module")
def data() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture(scope="module")
def media_services(
    mongod: ServerProcess, redis_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> Iterator[MediaServices]:
    with run_media_services(
        tmp_path_factory.mktemp("fetchers"), mongod, redis_server.url, "test_stream_fetchers"
    ) as lib:
        lib.put("a.webm", data)
        yield lib


def run_curl(*arguments: str | Path, code: int = 0) -> bytes:
    """Standard output of curl, which must exit with `code`."""
    command = [require_program("curl", "curl"), "-sS", "--max-time", "60", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=90)
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [("1000-1999", 1000, 2000), ("0-0", 0, 1), ("-500", SIZE - 500, SIZE), (f"{SIZE - 7}-", SIZE - 7, SIZE)],
)
def test_curl_ranges(media_services: MediaServices, data: bytes, asked: str, first: int, end: int) -> None:
    assert run_curl("-f", "-r", asked, media_services.url("a.webm")) == data[first:end]


def test_curl_range_past_the_end(media_services: MediaServices) -> None:
    assert run_curl("-o", "/dev/null", "-w", "%{http_code}", "-r", f"{SIZE}-", media_services.url("a.webm")) == b"416"


@pytest.mark.parametrize("there", [1, CHUNK_SIZE, SIZE // 2, SIZE - 1])
def test_curl_resumes_an_interrupted_download(
    media_services: MediaServices, data: bytes, tmp_path: Path, there: int
) -> None:
    target = tmp_path / "a.webm"
    target.write_bytes(data[:there])
    run_curl("-f", "-C", "-", "-o", target, media_services.url("a.webm"))
    assert target.read_bytes() == data


def test_curl_resume_of_a_complete_file_downloads_nothing(
    media_services: MediaServices, data: bytes, tmp_path: Path
) -> None:
    target = tmp_path / "a.webm"
    target.write_bytes(data)
    assert run_curl("-C", "-", "-o", target, "-w", "%{http_code}", media_services.url("a.webm")) == b"416"
    assert target.read_bytes() == data


def test_curl_compares_entity_tags(media_services: MediaServices, data: bytes, tmp_path: Path) -> None:
    target, etag = tmp_path / "a.webm", tmp_path / "etag"
    said = ("-o", target, "-w", "%{http_code} %{size_download}", media_services.url("a.webm"))
    assert run_curl("--etag-save", etag, *said) == f"200 {SIZE}".encode()
    assert etag.read_text().strip() == f'"sha256-{hashlib.sha256(data).hexdigest()}"'
    assert run_curl("--etag-compare", etag, *said) == b"304 0"
    assert target.read_bytes() == data
    etag.write_text('"another"\n')
    assert run_curl("--etag-compare", etag, *said) == f"200 {SIZE}".encode()


def test_curl_compares_times(media_services: MediaServices, tmp_path: Path) -> None:
    target = tmp_path / "a.webm"
    run_curl("-f", "-R", "-o", target, media_services.url("a.webm"))
    assert run_curl("-z", target, "-o", "/dev/null", "-w", "%{http_code}", media_services.url("a.webm")) == b"304"


def test_curl_asks_for_several_ranges(media_services: MediaServices, data: bytes) -> None:
    parts = [(0, 10), (CHUNK_SIZE - 3, CHUNK_SIZE + 3), (SIZE - 10, SIZE)]
    answer = run_curl(
        "-i", "-f", "-r", ",".join(f"{first}-{end - 1}" for first, end in parts), media_services.url("a.webm")
    )
    _, _, rest = answer.partition(b"\r\n")
    message = message_from_bytes(rest)
    assert message.get_content_type() == "multipart/byteranges"
    assert [part["content-range"] for part in message.get_payload()] == [  # type: ignore[index]
        f"bytes {first}-{end - 1}/{SIZE}" for first, end in parts
    ]
    for first, end in parts:
        assert data[first:end] in answer


def test_curl_saves_under_the_content_disposition_filename(media_services: MediaServices, tmp_path: Path) -> None:
    media_services.put("späß; x.bin", b"named", content_type="application/x-thing")
    command = [require_program("curl", "curl"), "-sS", "-f", "-J", "-O", media_services.url("späß; x.bin")]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=60)
    (saved,) = tmp_path.iterdir()
    assert saved.read_bytes() == b"named"


def test_curl_fails_on_a_corrupt_file(media_services: MediaServices, data: bytes, tmp_path: Path) -> None:
    """Not a clean end: curl exits with 18 (a part was received) or 56 (the connection was reset)."""
    media_services.delete_chunk(media_services.put("broken.webm", data), 40)
    command = [
        require_program("curl", "curl"),
        "-sS",
        "-o",
        str(tmp_path / "broken"),
        media_services.url("broken.webm"),
    ]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert done.returncode in {18, 56}
    received = tmp_path / "broken"  # curl creates no file if it receives no byte
    assert not received.exists() or data.startswith(received.read_bytes())


def test_aria2c_with_sixteen_connections(media_services: MediaServices, data: bytes, tmp_path: Path) -> None:
    options = ["-x16", "-s16", "-k1M", "--file-allocation=none", "--no-conf", "--console-log-level=warn", "--quiet"]
    command = [
        require_program("aria2c", "aria2"),
        *options,
        "-d",
        str(tmp_path),
        "-o",
        "a.webm",
        media_services.url("a.webm"),
    ]
    subprocess.run(command, check=True, timeout=90)
    assert (tmp_path / "a.webm").read_bytes() == data
    assert not (tmp_path / "a.webm.aria2").exists()
