"""Sets up MongoDB for the services: a job that runs at every start, once MongoDB listens.

It initiates the replica set if one is configured, sets a pending password of root, then creates each service's user or updates its
password and roles. It is idempotent. The passwords come from the vault; the upload service creates the indexes.
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
LIVE_COLLECTIONS = ("live", "live_segments", "live_messages")
"""What is known of live streams beside their bytes."""
ROLES = {"upload": "readWrite", "stream": "read", "live": None}
"""The weakest role of MongoDB's own that each service works with, None for those that have privileges alone."""
PRIVILEGES: dict[str, dict[str, tuple[str, ...]]] = {
    # A journaled write after which what was read of an unfinished upload is durable.
    "stream": {"media": ("update",)},
    # As upload, but neither the endpoints of webhooks, whose secrets sign deliveries, nor what is revoked.
    "live": {
        **dict.fromkeys(
            ("media", "fs.chunks", "fs.files", "posters", "revisions", "quotas", *LIVE_COLLECTIONS),
            ("find", "insert", "update", "remove"),
        ),
        "revoked": ("find",),
        "": ("createCollection", "createIndex", "listIndexes", "dbStats"),
    },
}
"""What a service may do beside that, by collection; "" stands for all of them."""
SETUP_TIMEOUT = 120.0
"""Seconds in which errors of MongoDB are retried."""
MAJORITY_WRITE = {"w": "majority", "wtimeout": 15000}
AUTHENTICATION_FAILED = 18
NOT_YET_INITIALIZED = 94
ROLE_ALREADY_EXISTS = 51002
USER_ALREADY_EXISTS = 51003

RootClient = MongoClient[dict[str, Any]]


class SetupError(Exception):
    """An error that a retry does not solve. The text says why and what to do."""


def main() -> int:
    """Run the setup. Returns 1 if MongoDB does not respond in time or rejects a command."""
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
            print(f"MongoDB users are up to date: {', '.join(ROLES)}")
            return 0


def setup(hosts: list[str], replica_set: str | None) -> None:
    """Run every step once. Raises SetupError and PyMongoError."""
    password = find_root_password(hosts[:1])
    if replica_set:
        with connect_as_root(hosts[:1], None, password) as root_client:
            initiate_replica_set(root_client, replica_set, hosts)
    with connect_as_root(hosts, replica_set, password) as root_client:
        if replica_set is None:
            require_standalone_data(root_client)
        update_root_password(root_client, password)
        for service, role in ROLES.items():
            create_or_update_user(root_client, service, role)


def connect_as_root(hosts: list[str], replica_set: str | None, password: str) -> RootClient:
    """A client that is authenticated as root, of the replica set or of one server."""
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
    """The password of root that MongoDB accepts: the current one, or the pending one if an earlier run ended after it was set."""
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
        "the data were created with another password of root than the one in the volume vault; set that password as "
        "MONGO_ROOT_PASSWORD in .env, or restore the vault that belongs to the data"
    )


def require_standalone_data(root_client: RootClient) -> None:
    """Raise SetupError if the data belong to a replica set: a member that runs alone writes no oplog, so the other members would
    never replicate its writes.
    """
    if found := root_client.local["system.replset"].find_one():
        raise SetupError(
            f"the data belong to the replica set {found['_id']}; start it with deploy/compose.cluster.yml as before, or see "
            "docs/operations.md for the way back to one server"
        )


def update_root_password(root_client: RootClient, current_password: str) -> None:
    """Set the pending password of root, then store it as the current one. In this order the current one is always valid."""
    if (new := read_pending_root_password()) is None:
        return
    if new != current_password:
        root_client.admin.command("updateUser", "root", pwd=new, writeConcern=MAJORITY_WRITE)
        print("root password changed")
    (VAULT / PENDING_ROOT_PASSWORD_FILE).replace(VAULT / ROOT_PASSWORD_FILE)


def initiate_replica_set(root_client: RootClient, replica_set: str, hosts: list[str]) -> None:
    """Initiate a replica set of `hosts` unless there is one. The data of the first host are kept; the others must be empty."""
    try:
        root_client.admin.command("replSetGetStatus")
    except OperationFailure as error:
        if error.code != NOT_YET_INITIALIZED:
            raise
        members = [{"_id": number, "host": host} for number, host in enumerate(hosts)]
        root_client.admin.command("replSetInitiate", {"_id": replica_set, "members": members})
        print(f"initiated the replica set {replica_set} of {', '.join(hosts)}")


def create_or_update_role(root_client: RootClient, service: str) -> str:
    """Create the role with the privileges of `service`, or update it. Returns its name."""
    name = f"gridcast_{service}"
    privileges = [
        {"resource": {"db": DATABASE, "collection": collection}, "actions": list(actions)}
        for collection, actions in PRIVILEGES[service].items()
    ]
    fields: dict[str, Any] = {"privileges": privileges, "roles": [], "writeConcern": MAJORITY_WRITE}
    try:
        root_client[DATABASE].command("createRole", name, **fields)
    except OperationFailure as error:
        if error.code != ROLE_ALREADY_EXISTS:
            raise
        root_client[DATABASE].command("updateRole", name, **fields)
    return name


def create_or_update_user(root_client: RootClient, service: str, role: str | None) -> None:
    """Create the user of `service`, or update its password and its roles."""
    roles = [role] if role else []
    if service in PRIVILEGES:
        roles.append(create_or_update_role(root_client, service))
    fields: dict[str, Any] = {
        "pwd": read_secret(f"mongo_{service}_password"),
        "roles": [{"role": name, "db": DATABASE} for name in roles],
        "writeConcern": MAJORITY_WRITE,
    }
    try:
        root_client[DATABASE].command("createUser", service, **fields)
    except OperationFailure as error:
        if error.code != USER_ALREADY_EXISTS:
            raise
        root_client[DATABASE].command("updateUser", service, **fields)


def read_secret(name: str) -> str:
    """Read a file of the vault."""
    return (VAULT / name).read_text("ascii")


def read_pending_root_password() -> str | None:
    """The new password of root that is not set yet, if there is one."""
    return read_secret(PENDING_ROOT_PASSWORD_FILE) if (VAULT / PENDING_ROOT_PASSWORD_FILE).exists() else None


if __name__ == "__main__":
    sys.exit(main())
