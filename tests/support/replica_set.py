"""A MongoDB replica set of three mongod processes, whose primary can be found and killed: `run_replica_set`."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo
import pymongo.errors

from deploy.local import databases
from deploy.local.processes import Program
from tests.support.databases import ServerProcess, run_server
from tests.support.waiting import eventually

REPLICA_SET_NAME = "gridcast"
ELECTION_TIMEOUT_MS = 2000
"""A fifth of MongoDB's default, so that tests wait less."""

Client = pymongo.MongoClient[dict[str, Any]]


def member_program(folder: Path, port: int) -> Program:
    """A mongod that waits for replSetInitiate."""
    alone = databases.mongod(folder, port, cache_gb=0.25)
    uri = f"{alone.url}/?directConnection=true"
    return dataclasses.replace(
        alone,
        command=(*alone.command, f"--replSet={REPLICA_SET_NAME}", "--oplogSize=256"),
        readiness_error=lambda: databases.mongodb_error(uri, timeout=1.0),
    )


class ReplicaSet:
    """Three members on loopback. `uri` names all of them."""

    def __init__(self, members: list[ServerProcess]) -> None:
        self.members = members
        hosts = [f"127.0.0.1:{server.port}" for server in members]
        self.uri = f"mongodb://{','.join(hosts)}/?replicaSet={REPLICA_SET_NAME}"
        configuration = {
            "_id": REPLICA_SET_NAME,
            "members": [{"_id": number, "host": host} for number, host in enumerate(hosts)],
            "settings": {"electionTimeoutMillis": ELECTION_TIMEOUT_MS, "heartbeatIntervalMillis": 500},
        }
        with self.connect_to(members[0]) as client:
            client.admin.command("replSetInitiate", configuration)
        eventually(self.is_healthy, 60.0, "one primary and two secondaries")

    @staticmethod
    def connect_to(server: ServerProcess) -> Client:
        """A client of this member alone."""
        return pymongo.MongoClient(
            f"{server.url}/?directConnection=true", serverSelectionTimeoutMS=1000, socketTimeoutMS=2000
        )

    def member_state(self, server: ServerProcess) -> str:
        """`primary`, `secondary` or `away`."""
        try:
            with self.connect_to(server) as client:
                said = client.admin.command("hello")
        except pymongo.errors.PyMongoError:
            return "away"
        if said["isWritablePrimary"]:
            return "primary"
        return "secondary" if said.get("secondary") else "away"

    def find_primary(self) -> ServerProcess | None:
        """The member that accepts writes, None during an election."""
        return next((server for server in self.members if self.member_state(server) == "primary"), None)

    def is_healthy(self) -> bool:
        """Return whether there are one primary and two secondaries."""
        return sorted(self.member_state(server) for server in self.members) == ["primary", "secondary", "secondary"]

    def kill_primary(self) -> ServerProcess:
        """Send SIGKILL to the primary and return it; the others elect a new one."""
        primary = eventually(self.find_primary, 30.0, "there is a primary")
        primary.kill()
        return primary


@contextlib.contextmanager
def run_replica_set(folder: Path) -> Iterator[ReplicaSet]:
    """Run the three members and kill them at the end."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(run_server(folder / f"member-{n}", member_program)) for n in range(3)]
        yield ReplicaSet(processes)
        # At SIGTERM a member waits 15 s for another to become primary.
        for server in processes:
            server.kill()
