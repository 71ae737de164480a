"""Independent upload clients (tuspy, tus-js-client, curl) upload, are interrupted, and resume; directly and through the gateway.

Node packages are installed into a temporary folder at exact versions; without npm these tests are skipped and say so.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.npm import NpmPackages
from tests.support.processes import run_service
from tests.support.programs import require_program
from tests.support.stack import Stack
from tests.support.upload_client import TUS_HEADERS, etag, repr_digest

SIZE = 5 * 1024 * 1024 + 321
CHUNK_SIZE = 700_001
"""Bytes of a PATCH: no multiple of a chunk or batch."""

TUS_JS_SCRIPT = """
const fs = require('fs');
const tus = require('tus-js-client');
const [endpoint, path, stopAfter, uploadUrl, name] = process.argv.slice(2);
const bytes = fs.readFileSync(path);
let stopped = false;
const upload = new tus.Upload(bytes, {
  endpoint, uploadUrl: uploadUrl || null, chunkSize: %d, retryDelays: [0, 200, 500, 1000],
  metadata: { filename: name, filetype: 'video/webm', folder: 'judge' },
  onError: (error) => { console.log(JSON.stringify({ error: String(error) })); process.exit(1); },
  onChunkComplete: (size, accepted) => {
    if (Number(stopAfter) && accepted >= Number(stopAfter) && !stopped) {
      stopped = true;
      upload.abort().then(() => { console.log(JSON.stringify({ url: upload.url, accepted })); process.exit(0); });
    }
  },
  onSuccess: () => { console.log(JSON.stringify({ url: upload.url, done: true })); },
});
upload.start();
"""


@dataclass(frozen=True)
class UploadRoute:
    """The URLs where an upload starts and where it resumes."""

    start_url: str
    resume_url: str


@pytest.fixture(scope="module")
def replica_route(
    mongod: ServerProcess, redis_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[UploadRoute]:
    env = storage_env(mongod, redis_server.url, "test_judges")
    folder = tmp_path_factory.mktemp("judges")
    with run_service("services.upload", folder, env) as first, run_service("services.upload", folder, env) as second:
        yield UploadRoute(first.url, second.url)


@pytest.fixture(params=["straight", "gateway"])
def route(request: pytest.FixtureRequest) -> UploadRoute:
    if request.param == "straight":
        found: UploadRoute = request.getfixturevalue("replica_route")
        return found
    stack: Stack = request.getfixturevalue("stack")
    return UploadRoute(stack.url, stack.url)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / f"{os.urandom(6).hex()}.webm"
    path.write_bytes(os.urandom(SIZE))
    return path


def rebase_url(url: str, base_url: str) -> str:
    """The same upload at another replica."""
    return base_url + urlsplit(url).path


def check_stored(route: UploadRoute, url: str, file: Path) -> None:
    seen = httpx.head(rebase_url(url, route.resume_url), headers=TUS_HEADERS)
    assert seen.headers["upload-offset"] == str(SIZE)
    assert seen.headers["repr-digest"] == repr_digest(file.read_bytes())


def test_tuspy(route: UploadRoute, file: Path) -> None:
    client = pytest.importorskip("tusclient.client", reason="tuspy is not installed")
    metadata = {"filename": file.name, "filetype": "video/webm", "folder": "judge"}
    with file.open("rb") as stream:
        first = client.TusClient(f"{route.start_url}/file/tus").uploader(
            file_stream=stream, chunk_size=CHUNK_SIZE, metadata=metadata
        )
        first.upload(stop_at=3 * CHUNK_SIZE)
        assert 0 < first.offset < SIZE
        url = rebase_url(first.url, route.resume_url)
        second = client.TusClient(f"{route.resume_url}/file/tus").uploader(
            file_stream=stream, chunk_size=CHUNK_SIZE, url=url, upload_checksum=True
        )
        assert second.offset == first.offset
        second.upload()
    check_stored(route, url, file)


@pytest.fixture(scope="module")
def node_packages(npm: NpmPackages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tus-js-client and the program that uploads with it."""
    folder = npm.require(tmp_path_factory.mktemp("node"), ["tus-js-client"])
    (folder / "upload.js").write_text(TUS_JS_SCRIPT % CHUNK_SIZE)
    return folder


def run_node(packages: Path, *arguments: str) -> dict[str, object]:
    command = ["node", "upload.js", *arguments]
    done = subprocess.run(command, cwd=packages, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_tus_js_client(route: UploadRoute, file: Path, node_packages: Path) -> None:
    stopped = run_node(node_packages, f"{route.start_url}/file/tus", str(file), str(2 * CHUNK_SIZE), "", file.name)
    assert int(str(stopped["accepted"])) < SIZE
    url = rebase_url(str(stopped["url"]), route.resume_url)
    assert run_node(node_packages, f"{route.resume_url}/file/tus", str(file), "0", url, file.name)["done"]
    check_stored(route, url, file)


def run_curl(*arguments: str) -> tuple[str, str]:
    """What was sent and received as headers, and the body."""
    program = require_program("curl", "curl")
    done = subprocess.run(
        [program, "-sSv", "--max-time", "30", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr, done.stdout


def test_curl_waits_for_100_continue(route: UploadRoute, file: Path) -> None:
    url = f"{route.start_url}/file/stream?filename={file.name}&folder=curl"
    expecting = ("-H", "Expect: 100-continue", "--expect100-timeout", "20", "-T", str(file))
    told, said = run_curl(*expecting, url)
    assert "< HTTP/1.1 100 Continue" in told
    assert "< HTTP/1.1 201 Created" in told
    assert json.loads(said)["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    # Rejected by its head: no byte of the body is sent.
    told, _ = run_curl(*expecting, "-H", "If-None-Match: *", url)
    assert "< HTTP/1.1 412" in told
    told, _ = run_curl(*expecting, "-H", f"If-Match: {etag(file.read_bytes())}", url)
    assert "< HTTP/1.1 200" in told


def test_curl_sends_a_form(route: UploadRoute, file: Path) -> None:
    """As in the tutorial: curl sends application/octet-stream for a .webm, and the type is derived from the name."""
    told, said = run_curl("-F", f"file=@{file}", "-F", "folder=form", f"{route.start_url}/file/upload")
    assert "< HTTP/1.1 201 Created" in told
    assert len(json.loads(said)) == 24
    told, said = run_curl("-F", "folder=form", "-F", f"file=@{file}", f"{route.start_url}/file/upload")
    assert "< HTTP/1.1 409 Conflict" in told
    assert json.loads(said)["detail"].startswith("Not Unique: ")
