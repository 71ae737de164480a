"""Brings MongoDB to the state that the services need: a job that runs once it listens, at every start.

It forms the replica set where one is wanted, gives root the password that is wanted, then makes each service's user or gives it
today's. Running it again changes nothing. It knows the passwords from the vault and MongoDB by its driver; indexes are the upload
service's.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

VAULT = Path("/vault")
ROOT_PASSWORD_FILE = "mongo_root_password"  # noqa: S105  # the name of a file
PENDING_ROOT_PASSWORD_FILE = f"{ROOT_PASSWORD_FILE}.wanted"
DATABASE = "gridcast"
ROLES = {"upload": "readWrite", "stream": "read"}
"""The least that each service can work with."""
SETUP_TIMEOUT = 120.0
MAJORITY_WRITE = {"w": "majority", "wtimeout": 15000}
AUTHENTICATION_FAILED = 18
NOT_YET_INITIALIZED = 94
USER_ALREADY_EXISTS = 51003

RootClient = MongoClient[dict[str, Any]]


class SetupError(Exception):
    """It is of no use to try again; says why and what to do."""


def main() -> int:
    """Form the set, make the users. Exits with 1 where MongoDB does not answer in time or refuses."""
    hosts = os.environ.get("MONGO_HOSTS", "mongo:27017").split(",")
    replica_set = os.environ.get("MONGO_REPLICA_SET") or None
    deadline = time.monotonic() + SETUP_TIMEOUT
    while True:
        try:
            setup(hosts, replica_set)
        except SetupError as error:
            print(f"MongoDB: {error}", file=sys.stderr)
            return 1
        except PyMongoError as error:
            if time.monotonic() > deadline:
                print(f"MongoDB: {error}", file=sys.stderr)
                return 1
            time.sleep(1.0)
        else:
            print(f"MongoDB knows the users {', '.join(ROLES)}")
            return 0


def setup(hosts: list[str], replica_set: str | None) -> None:
    """All of it, once."""
    password = find_root_password(hosts[:1])
    if replica_set:
        with connect_as_root(hosts[:1], None, password) as first:
            initiate_replica_set(first, replica_set, hosts)
    with connect_as_root(hosts, replica_set, password) as whole:
        if replica_set is None:
            require_standalone_data(whole)
        update_root_password(whole, password)
        for service, role in ROLES.items():
            create_or_update_user(whole, service, role)


def connect_as_root(hosts: list[str], replica_set: str | None, password: str) -> RootClient:
    """As root: the set, or the one server."""
    return MongoClient(
        hosts,
        replicaSet=replica_set,
        directConnection=replica_set is None,
        username="root",
        password=password,
        serverSelectionTimeoutMS=5000,
        socketTimeoutMS=20000,
    )


def find_root_password(hosts: list[str]) -> str:
    """Root's password that MongoDB takes: the remembered one, or the wanted one where this job ended before it could note it."""
    for password in filter(None, (read_secret(ROOT_PASSWORD_FILE), read_pending_root_password())):
        with connect_as_root(hosts, None, password) as root:
            try:
                root.admin.command("ping")
            except OperationFailure as error:
                if error.code != AUTHENTICATION_FAILED:
                    raise
            else:
                return password
    raise SetupError(
        "the data were made with another password of root than the one in the volume vault; write that one into .env as "
        "MONGO_ROOT_PASSWORD, or bring back the vault that belongs to them"
    )


def require_standalone_data(root_client: RootClient) -> None:
    """Writes that a member of a set takes by itself would be in no oplog: the others would never hear of them."""
    if found := root_client.local["system.replset"].find_one():
        raise SetupError(
            f"the data belong to the replica set {found['_id']}; start it with deploy/compose.cluster.yml as before, or see "
            "docs/operations.md for the way back to one server"
        )


def update_root_password(root_client: RootClient, current_password: str) -> None:
    """Give root the password that is wanted, then remember it: in this order, so that the remembered one is always true."""
    if (new := read_pending_root_password()) is None:
        return
    if new != current_password:
        root_client.admin.command("updateUser", "root", pwd=new, writeConcern=MAJORITY_WRITE)
        print("root has a new password")
    (VAULT / PENDING_ROOT_PASSWORD_FILE).replace(VAULT / ROOT_PASSWORD_FILE)


def initiate_replica_set(root_client: RootClient, replica_set: str, hosts: list[str]) -> None:
    """Make a replica set of `hosts`, unless it is one. What the first holds is kept; the others must be empty."""
    try:
        root_client.admin.command("replSetGetStatus")
    except OperationFailure as error:
        if error.code != NOT_YET_INITIALIZED:
            raise
        members = [{"_id": number, "host": host} for number, host in enumerate(hosts)]
        root_client.admin.command("replSetInitiate", {"_id": replica_set, "members": members})
        print(f"formed the replica set {replica_set} of {', '.join(hosts)}")


def create_or_update_user(root_client: RootClient, service: str, role: str) -> None:
    """Make the user of `service`, or see to its password and rights."""
    fields: dict[str, Any] = {
        "pwd": read_secret(f"mongo_{service}_password"),
        "roles": [{"role": role, "db": DATABASE}],
        "writeConcern": MAJORITY_WRITE,
    }
    try:
        root_client[DATABASE].command("createUser", service, **fields)
    except OperationFailure as error:
        if error.code != USER_ALREADY_EXISTS:
            raise
        root_client[DATABASE].command("updateUser", service, **fields)


def read_secret(name: str) -> str:
    """A password of the vault."""
    return (VAULT / name).read_text("ascii")


def read_pending_root_password() -> str | None:
    """The password that root shall have, where it is another one."""
    return read_secret(PENDING_ROOT_PASSWORD_FILE) if (VAULT / PENDING_ROOT_PASSWORD_FILE).exists() else None


if __name__ == "__main__":
    sys.exit(main())
