"""A real replica set: three mongod processes of the fixtures' binary, whose primary can be found and killed."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo
import pymongo.errors

from deploy.local import databases
from deploy.local.processes import Program
from tests.support.databases import Server, running
from tests.support.waiting import eventually

NAME = "gridcast"
ELECTION_MS = 2000
"""A fifth of MongoDB's default, so that tests wait less."""

Client = pymongo.MongoClient[dict[str, Any]]


def member(folder: Path, port: int) -> Program:
    """One mongod that waits to be made a member."""
    alone = databases.mongod(folder, port, cache_gb=0.25)
    uri = f"{alone.url}/?directConnection=true"
    return dataclasses.replace(
        alone,
        command=(*alone.command, f"--replSet={NAME}", "--oplogSize=256"),
        readiness_error=lambda: databases.mongodb_error(uri, timeout=1.0),
    )


class ReplicaSet:
    """Three members on loopback."""

    def __init__(self, members: list[Server]) -> None:
        self.members = members
        hosts = [f"127.0.0.1:{server.port}" for server in members]
        self.uri = f"mongodb://{','.join(hosts)}/?replicaSet={NAME}"
        configuration = {
            "_id": NAME,
            "members": [{"_id": number, "host": host} for number, host in enumerate(hosts)],
            "settings": {"electionTimeoutMillis": ELECTION_MS, "heartbeatIntervalMillis": 500},
        }
        with self.to(members[0]) as client:
            client.admin.command("replSetInitiate", configuration)
        eventually(self.all_in_step, 60.0, "one primary and two secondaries")

    @staticmethod
    def to(server: Server) -> Client:
        """This member and no other."""
        return pymongo.MongoClient(
            f"{server.url}/?directConnection=true", serverSelectionTimeoutMS=1000, socketTimeoutMS=2000
        )

    def state(self, server: Server) -> str:
        """`primary`, `secondary` or `away`."""
        try:
            with self.to(server) as client:
                said = client.admin.command("hello")
        except pymongo.errors.PyMongoError:
            return "away"
        if said["isWritablePrimary"]:
            return "primary"
        return "secondary" if said.get("secondary") else "away"

    def primary(self) -> Server | None:
        """The member that takes writes."""
        return next((server for server in self.members if self.state(server) == "primary"), None)

    def all_in_step(self) -> bool:
        """Whether all are there and one leads."""
        return sorted(self.state(server) for server in self.members) == ["primary", "secondary", "secondary"]

    def kill_primary(self) -> Server:
        """SIGKILL; the others elect a new one."""
        primary = eventually(self.primary, 30.0, "there is a primary")
        primary.kill()
        return primary


@contextlib.contextmanager
def replica_set(folder: Path) -> Iterator[ReplicaSet]:
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(running(folder / f"member-{n}", member)) for n in range(3)]
        yield ReplicaSet(processes)
        # Asked to stop, a member waits 15 s for others to take over.
        for server in processes:
            server.kill()
