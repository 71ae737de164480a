"""Uploads of the JavaScript client on Node, through a real stack: kills and restarts of the upload service and of the gateway, a
reload, pauses, names that are taken, several files at a time; and against a scripted server, by node --test.

Node and its packages come from the machine and from npm; where they are not available, these tests are skipped and say so.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.js_client import install_client
from tests.support.node_program import NodeProgram
from tests.support.npm import NpmPackages
from tests.support.sizes import MIB
from tests.support.stack import Stack, run_forked_stack

pytestmark = pytest.mark.anyio

PROGRAM, SCRIPTED = (Path(__file__).parent / "js" / name for name in ("uploads.mjs", "scripted.test.mjs"))
SIZE = 48 * MIB + 12_345
CHUNK_SIZE = MIB
"""Bytes of a request: many, so that each kill hits one."""


@pytest.fixture(scope="module")
def programs(npm: NpmPackages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_client(npm, tmp_path_factory.mktemp("uploads"), ["rxjs", "ws"], PROGRAM, SCRIPTED)


@pytest.fixture(scope="module")
def own_stack(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose processes a test may kill: the runner starts them again."""
    del programs  # nothing is started where Node is missing
    with run_forked_stack(tmp_path_factory.mktemp("own_stack") / "data") as stack:
        yield stack
    stack.delete_data()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / f"{os.urandom(6).hex()}.webm"
    path.write_bytes(os.urandom(SIZE))
    return path


def run_uploads(
    programs: Path, stack: Stack, storage: Path, **options: object
) -> AbstractAsyncContextManager[NodeProgram]:
    given = {"chunkSize": CHUNK_SIZE, **options}
    return NodeProgram.run(programs / PROGRAM.name, stack.url, str(storage), json.dumps(given))


def snapshots(program: NodeProgram, name: str) -> list[dict[str, Any]]:
    return [upload for upload in program.find("upload") if upload["filename"] == name]


async def wait_for_bytes(program: NodeProgram, name: str, count: int) -> None:
    await program.wait_until(
        lambda: any(upload["stored"] >= count for upload in snapshots(program, name)), f"{count} bytes of {name}"
    )


async def wait_for_state(program: NodeProgram, name: str, state: str) -> None:
    await program.wait_until(
        lambda: [upload["state"] for upload in snapshots(program, name)][-1:] == [state], f"{name} is {state}"
    )


def check_stored(stack: Stack, file: Path, folder: str = "") -> None:
    query = {"folder": folder, "filename": file.name}
    info = httpx.get(f"{stack.url}/file/info", params=query).json()
    assert info["length"] == file.stat().st_size
    assert info["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def is_stored(stack: Stack, filename: str) -> bool:
    return httpx.get(f"{stack.url}/file/info", params={"filename": filename}).status_code == 200


def count_retries(program: NodeProgram, name: str) -> int:
    return len([upload for upload in snapshots(program, name) if upload["state"] == "retrying"])


async def wait_for_retry(program: NodeProgram, name: str, before: int) -> None:
    await program.wait_until(lambda: count_retries(program, name) > before, "a request has failed")


def reported_as_stored(program: NodeProgram) -> set[str]:
    """The names of the files that the server has reported as stored, over the socket."""
    return {event["data"]["filename"] for event in program.find("event") if event["data"]["state"] == "stored"}


async def test_upload_goes_on_over_restarts(programs: Path, own_stack: Stack, file: Path, tmp_path: Path) -> None:
    """The upload service is killed, then shut down, then the gateway is killed; each is started again by the runner."""
    async with run_uploads(programs, own_stack, tmp_path / "storage") as program:
        program.send_command(add=str(file), folder="restarts")
        for name, sign, count in (
            ("upload-1", signal.SIGKILL, 8 * MIB),
            ("upload-1", signal.SIGTERM, 20 * MIB),
            ("gateway", signal.SIGKILL, 32 * MIB),
        ):
            await wait_for_bytes(program, file.name, count)
            before = count_retries(program, file.name)
            os.kill(own_stack.pids[name], sign)
            await wait_for_retry(program, file.name, before)
        await wait_for_state(program, file.name, "stored")
        offsets = [upload["stored"] for upload in snapshots(program, file.name)]
        assert offsets == sorted(offsets), "what the server has confirmed it keeps"
    check_stored(own_stack, file, "restarts")


async def test_upload_goes_on_after_a_reload(programs: Path, own_stack: Stack, file: Path, tmp_path: Path) -> None:
    """The page is closed in mid-upload; a new one lists the upload, and continues it when the same file is chosen again."""
    storage = tmp_path / "storage"
    async with run_uploads(programs, own_stack, storage) as program:
        program.send_command(add=str(file))
        await wait_for_bytes(program, file.name, 8 * MIB)
        program.kill()
    async with run_uploads(programs, own_stack, storage) as program:
        program.send_command(unfinished=True)
        await program.wait_until(lambda: program.find("unfinished"), "the list")
        (unfinished,) = program.find("unfinished")[0]
        assert (unfinished["filename"], unfinished["size"]) == (file.name, SIZE)
        program.send_command(add=str(file))
        await wait_for_state(program, file.name, "stored")
        assert min(upload["stored"] for upload in snapshots(program, file.name) if upload["stored"]) >= 8 * MIB
        program.send_command(unfinished=True)
        await program.wait_until(lambda: len(program.find("unfinished")) == 2, "the list")
        assert program.find("unfinished")[1] == []
    check_stored(own_stack, file)


async def test_pause_resume_and_cancel(programs: Path, own_stack: Stack, file: Path, tmp_path: Path) -> None:
    async with run_uploads(programs, own_stack, tmp_path / "storage") as program:
        program.send_command(add=str(file))
        await wait_for_bytes(program, file.name, 4 * MIB)
        program.send_command(pause=file.name)
        await wait_for_state(program, file.name, "paused")
        program.send_command(resume=file.name)
        await wait_for_state(program, file.name, "stored")
        check_stored(own_stack, file)

        program.send_command(add=str(file), filename="cancelled.webm")
        await wait_for_bytes(program, "cancelled.webm", 4 * MIB)
        program.send_command(cancel="cancelled.webm")
        await wait_for_state(program, "cancelled.webm", "cancelled")
        program.send_command(unfinished=True)
        await program.wait_until(lambda: program.find("unfinished") == [[]], "nothing is unfinished")
    assert not is_stored(own_stack, "cancelled.webm")


async def test_several_files_with_progress_from_the_server(programs: Path, own_stack: Stack, tmp_path: Path) -> None:
    """At most two at a time; the server reports each to the client's socket. A name that is taken fails, alone."""
    files = [tmp_path / f"{os.urandom(6).hex()}-{number}.bin" for number in range(8)]
    for number, path in enumerate(files):
        path.write_bytes(os.urandom(number * 200_000))
    async with run_uploads(programs, own_stack, tmp_path / "storage", concurrency=2) as program:
        await program.wait_until(lambda: "connected" in program.find("connection"), "the socket")
        for path in files:
            program.send_command(add=str(path), folder="several")
        for path in files:
            await wait_for_state(program, path.name, "stored")
            check_stored(own_stack, path, "several")
        sending: set[str] = set()
        for upload in program.find("upload"):
            if upload["state"] == "sending":
                sending.add(upload["filename"])
            else:
                sending.discard(upload["filename"])
            assert len(sending) <= 2
        names = {path.name for path in files}
        await program.wait_until(lambda: names <= reported_as_stored(program), "progress of all files")
        again = tmp_path / "again" / files[3].name
        again.parent.mkdir()
        again.write_bytes(b"other")
        program.send_command(add=str(again), folder="several")
        await wait_for_state(program, again.name, "failed")
        assert program.output[-1]["error"].startswith("Not Unique: ")
    check_stored(own_stack, files[3], "several")


def test_scripted_servers(programs: Path) -> None:
    """What a real stack cannot be made to answer at will: the tests of scripted.test.mjs."""
    node = shutil.which("node") or "node"
    done = subprocess.run(
        [node, "--test", "--test-timeout=100000", SCRIPTED.name],
        cwd=programs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "# pass 0" not in done.stdout
