"""Brings MongoDB to the state that the services need: a job that runs once it listens, at every start.

It forms the replica set where one is wanted, then makes each service's user or gives it today's password. Running it again changes
nothing. It knows the passwords from the vault and MongoDB by its driver; indexes are the upload service's.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

VAULT = Path("/vault")
DATABASE = "gridcast"
ROLES = {"upload": "readWrite", "stream": "read"}
"""The least that each service can work with."""
PATIENCE = 120.0
NOT_YET_INITIALIZED = 94
USER_ALREADY_EXISTS = 51003

Client = MongoClient[dict[str, Any]]


def main() -> int:
    """Form the set, make the users. Exits with 1 where MongoDB does not answer in time or refuses."""
    hosts = os.environ.get("MONGO_HOSTS", "mongo:27017").split(",")
    replica_set = os.environ.get("MONGO_REPLICA_SET") or None
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if replica_set:
                with client(hosts[:1], None) as first:
                    form(first, replica_set, hosts)
            with client(hosts, replica_set) as whole:
                for service, role in ROLES.items():
                    admit(whole, service, role)
        except PyMongoError as error:
            if time.monotonic() > deadline:
                print(f"MongoDB: {error}", file=sys.stderr)
                return 1
            time.sleep(1.0)
        else:
            print(f"MongoDB knows the users {', '.join(ROLES)}")
            return 0


def client(hosts: list[str], replica_set: str | None) -> Client:
    """As root: the set, or the one server."""
    return MongoClient(
        hosts,
        replicaSet=replica_set,
        directConnection=replica_set is None,
        username="root",
        password=secret("mongo_root_password"),
        serverSelectionTimeoutMS=5000,
        socketTimeoutMS=20000,
    )


def form(first: Client, name: str, hosts: list[str]) -> None:
    """Make a replica set of `hosts`, unless it is one. What the first holds is kept; the others must be empty."""
    try:
        first.admin.command("replSetGetStatus")
    except OperationFailure as error:
        if error.code != NOT_YET_INITIALIZED:
            raise
        members = [{"_id": number, "host": host} for number, host in enumerate(hosts)]
        first.admin.command("replSetInitiate", {"_id": name, "members": members})
        print(f"formed the replica set {name} of {', '.join(hosts)}")


def admit(whole: Client, service: str, role: str) -> None:
    """Make the user of `service`, or see to its password and rights."""
    fields: dict[str, Any] = {
        "pwd": secret(f"mongo_{service}_password"),
        "roles": [{"role": role, "db": DATABASE}],
        "writeConcern": {"w": "majority", "wtimeout": 15000},
    }
    try:
        whole[DATABASE].command("createUser", service, **fields)
    except OperationFailure as error:
        if error.code != USER_ALREADY_EXISTS:
            raise
        whole[DATABASE].command("updateUser", service, **fields)


def secret(name: str) -> str:
    """A password of the vault."""
    return (VAULT / name).read_text("ascii")


if __name__ == "__main__":
    sys.exit(main())
