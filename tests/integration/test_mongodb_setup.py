"""The job that prepares MongoDB for the services, on a real mongod with authentication.

It runs as in its container, with a vault as deploy/containers/credentials.py makes it.
"""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo
import pymongo.errors
import pytest

from deploy.local import databases
from deploy.local.ports import HOST
from deploy.local.processes import PROJECT_ROOT, Program
from tests.support.databases import ServerProcess, run_server, small_mongod_program

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
        known = {"root": FIRST_PASSWORD, "upload": "upload-password-0", "stream": "stream-password-0", **secrets}
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
