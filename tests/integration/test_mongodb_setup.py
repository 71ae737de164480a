"""The job that prepares MongoDB for the services, on a real mongod with authentication.

It runs as in its container, with a vault as deploy/containers/credentials.py makes it.
"""

import asyncio
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pymongo.errors
import pytest

from deploy.local import databases
from deploy.local.ports import HOST
from deploy.local.processes import PROJECT_ROOT, Program
from services.common.media import MediaName
from services.common.store.gridfs.mongo import MongoDriver, open_mongo_database
from services.common.store.growing_files import file_etag
from services.common.store.quotas import Quota
from services.common.store.upload_store import NewUpload, StoredFile
from tests.support.databases import ServerProcess, run_server, small_mongod_program
from tests.support.live_streams import begin_stream, epoch, progress
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_adapters import NAME, GridFSAdapters
from tests.support.store_inspectors import MongoInspector

JOB = PROJECT_ROOT / "deploy/containers/mongodb_setup.py"
FIRST_PASSWORD, SECOND_PASSWORD, THIRD_PASSWORD = (f"{name}-password-of-root" for name in ("first", "second", "third"))

Client = pymongo.MongoClient[dict[str, Any]]


def authenticated_mongod(folder: Path, port: int) -> Program:
    usual = small_mongod_program(folder, port)
    uri = f"{usual.url}/?directConnection=true"
    return dataclasses.replace(
        usual, command=(*usual.command, "--auth"), readiness_error=lambda: databases.mongodb_error(uri, timeout=1.0)
    )


def replica_set_member(folder: Path, port: int) -> Program:
    """The same data as a member of a replica set."""
    key = folder.parent / "key"
    key.touch(0o600)
    key.write_text("0123456789abcdef", "ascii")
    usual = authenticated_mongod(folder, port)
    return dataclasses.replace(usual, command=(*usual.command, "--replSet=gridcast", f"--keyFile={key}"))


def connect_as(server: ServerProcess, user: str, password: str, source: str = "admin") -> Client:
    return pymongo.MongoClient(
        HOST,
        server.port,
        username=user,
        password=password,
        authSource=source,
        directConnection=True,
        serverSelectionTimeoutMS=3000,
    )


def accepts_password(server: ServerProcess, user: str, password: str, source: str = "admin") -> bool:
    with connect_as(server, user, password, source) as client:
        try:
            client.admin.command("ping")
        except pymongo.errors.OperationFailure:
            return False
        return True


class SecretVault:
    """A folder used as the job's volume."""

    def __init__(self, folder: Path, **secrets: str) -> None:
        self.folder = folder
        folder.mkdir()
        known = {
            "root": FIRST_PASSWORD,
            "upload": "upload-password-0",
            "stream": "stream-password-0",
            "live": "live-password-0",
            **secrets,
        }
        for name, password in known.items():
            (folder / f"mongo_{name}_password").write_text(password, "ascii")

    @property
    def root_password(self) -> str:
        return (self.folder / "mongo_root_password").read_text("ascii")

    @property
    def pending_root_password(self) -> str | None:
        path = self.folder / "mongo_root_password.wanted"
        return path.read_text("ascii") if path.exists() else None

    def set_pending_root_password(self, password: str) -> None:
        (self.folder / "mongo_root_password.wanted").write_text(password, "ascii")


def run_job(vault: SecretVault, server: ServerProcess, **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.path.insert(0, {str(JOB.parent)!r}); import mongodb_setup, pathlib; "
    program += f"mongodb_setup.VAULT = pathlib.Path({str(vault.folder)!r}); sys.exit(mongodb_setup.main())"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MONGO")}
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**inherited, "MONGO_HOSTS": f"{HOST}:{server.port}", **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A mongod whose root has the first password."""
    with run_server(tmp_path / "mongod", authenticated_mongod) as server:
        with Client(HOST, server.port, directConnection=True) as client:
            client.admin.command("createUser", "root", pwd=FIRST_PASSWORD, roles=["root"])
        yield server


@pytest.fixture
def vault(tmp_path: Path) -> SecretVault:
    return SecretVault(tmp_path / "vault")


def test_users_have_their_passwords_and_roles(vault: SecretVault, server: ServerProcess) -> None:
    for _ in range(2):
        done = run_job(vault, server)
        assert done.returncode == 0, done.stderr
    assert accepts_password(server, "upload", "upload-password-0", "gridcast")
    (vault.folder / "mongo_stream_password").write_text("stream-password-1", "ascii")
    assert run_job(vault, server).returncode == 0
    assert accepts_password(server, "stream", "stream-password-1", "gridcast")
    assert not accepts_password(server, "stream", "stream-password-0", "gridcast")


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_services_work_with_the_rights_of_their_users(
    vault: SecretVault, server: ServerProcess, driver: MongoDriver
) -> None:
    """A stream is made, written, read while it grows and ended by `live` and `stream`; the garbage of `upload` takes it."""
    done = await asyncio.to_thread(run_job, vault, server)
    assert done.returncode == 0, done.stderr

    def open_as(user: str) -> GridFSAdapters:
        uri = f"mongodb://{user}:{user}-password-0@{HOST}:{server.port}/gridcast?directConnection=true"
        return GridFSAdapters(open_mongo_database(uri, "gridcast", driver), inspector, Quota(10**9, 100))

    root = f"mongodb://root:{FIRST_PASSWORD}@{HOST}:{server.port}/?directConnection=true&authSource=admin"
    inspector = MongoInspector(root, "gridcast")
    live, stream, upload = map(open_as, ("live", "stream", "upload"))
    try:
        await live.store.ensure_schema()
        await live.store.get_free_bytes()
        begun = await begin_stream(live, owner="alice")
        await live.store.reserve(begun, 3 * CHUNK_SIZE)
        await live.store.write_blocks(begun, 1, [b"m" * CHUNK_SIZE, b"tail"])
        await live.store.set_offset(begun, 2 * CHUNK_SIZE + 4, b"tail", None, keep_lease=True)
        await live.live.set_publisher("s", 1, "p")
        await live.live.advance("s", 1, progress(0, 2, epochs=(epoch(0),)))

        seen = await stream.live.get_stream("s")
        assert seen is not None
        assert len(await stream.live.read_segments("s", 0)) == 3
        found = await stream.growing.read_durable(begun.upload_id, 2 * CHUNK_SIZE, 100)
        assert found is not None
        assert found.data == b"tail"

        await live.growing.place_header(begun, b"h" * CHUNK_SIZE)
        length = 2 * CHUNK_SIZE + 4
        event = await live.store.commit(begun, StoredFile(length, "video/mp4", None, file_etag(begun, length)))
        await live.live.set_state("s", 1, "ended", "", event.info.revision)
        await live.store.ack_event(event)
        assert await live.growing.set_sha256(event.info, "0" * 64)
        assert await stream.live.find_file(seen) is not None
        given_up = await live.store.create_upload(MediaName("f", "other"), NewUpload(owner="alice"))
        await live.store.abort(given_up)
        await live.collect_once()

        await upload.store.delete(NAME)
        inspector.make_tombstones_due(NAME.filename)
        await upload.collect_until_done(inspector)
        await upload.keeper.delete_orphans()
        assert inspector.count_live() == (0, 0)
    finally:
        inspector.close()
        for adapters in (live, stream, upload):
            await adapters.mongo.aclose()


DENIED: tuple[tuple[str, Callable[[Any], object]], ...] = (
    ("stream", lambda database: database.media.insert_one({})),
    ("stream", lambda database: database.media.delete_one({})),
    ("stream", lambda database: database.live.update_one({}, {"$set": {"a": 1}})),
    ("stream", lambda database: database["fs.chunks"].update_one({}, {"$set": {"a": 1}})),
    ("live", lambda database: database.webhook_endpoints.find_one()),
    ("live", lambda database: database.deliveries.find_one()),
    ("live", lambda database: database.revoked.delete_one({})),
    ("live", lambda database: database.live.drop()),
    ("live", lambda database: database.client.other.media.find_one()),
)


def test_nothing_else_is_granted(vault: SecretVault, server: ServerProcess) -> None:
    assert run_job(vault, server).returncode == 0
    for user, call in DENIED:
        with (
            connect_as(server, user, f"{user}-password-0", "gridcast") as client,
            pytest.raises(pymongo.errors.OperationFailure, match="not authorized"),
        ):
            call(client.gridcast)


def test_root_password_changes_and_the_vault_stays_correct(vault: SecretVault, server: ServerProcess) -> None:
    vault.set_pending_root_password(SECOND_PASSWORD)
    done = run_job(vault, server)
    assert done.returncode == 0, done.stderr
    assert (vault.root_password, vault.pending_root_password) == (SECOND_PASSWORD, None)
    assert accepts_password(server, "root", SECOND_PASSWORD)
    assert not accepts_password(server, "root", FIRST_PASSWORD)
    # Interrupted after MongoDB had the password and before the vault did.
    vault.set_pending_root_password(THIRD_PASSWORD)
    with connect_as(server, "root", SECOND_PASSWORD) as client:
        client.admin.command("updateUser", "root", pwd=THIRD_PASSWORD)
    assert run_job(vault, server).returncode == 0
    assert (vault.root_password, vault.pending_root_password) == (THIRD_PASSWORD, None)


def test_password_vault_of_another_database_is_refused(tmp_path: Path, server: ServerProcess) -> None:
    """The error is reported immediately; with the right password it succeeds."""
    other = SecretVault(tmp_path / "other", root=SECOND_PASSWORD)
    done = run_job(other, server)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "another password of root" in line
    assert other.root_password == SECOND_PASSWORD
    other.set_pending_root_password(FIRST_PASSWORD)
    assert run_job(other, server).returncode == 0
    assert other.root_password == FIRST_PASSWORD


def test_standalone_server_becomes_a_replica_set_and_a_member_is_not_converted(
    tmp_path: Path, vault: SecretVault, server: ServerProcess
) -> None:
    """As a standalone server it would accept writes that never reach the replica set."""
    assert run_job(vault, server).returncode == 0
    with connect_as(server, "upload", "upload-password-0", "gridcast") as client:
        client.gridcast.media.insert_one({"_id": 1})
    server.terminate()
    # The same folder and port, as the override starts it.
    server._program = replica_set_member
    server.start()
    formed = run_job(vault, server, MONGO_REPLICA_SET="gridcast")
    assert formed.returncode == 0, formed.stderr
    assert "initiated the replica set gridcast" in formed.stdout
    with connect_as(server, "upload", "upload-password-0", "gridcast") as client:
        assert client.gridcast.media.count_documents({}) == 1
    server.kill()
    server._program = authenticated_mongod
    server.start()
    vault.set_pending_root_password(SECOND_PASSWORD)
    refused = run_job(vault, server)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert "belong to the replica set gridcast" in line
    assert "deploy/compose.cluster.yml" in line
    assert accepts_password(server, "root", FIRST_PASSWORD), "it has written nothing"
