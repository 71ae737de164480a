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
ROOT = "mongo_root_password"
WANTED = f"{ROOT}.wanted"
DATABASE = "gridcast"
ROLES = {"upload": "readWrite", "stream": "read"}
"""The least that each service can work with."""
PATIENCE = 120.0
WRITTEN = {"w": "majority", "wtimeout": 15000}
AUTHENTICATION_FAILED = 18
NOT_YET_INITIALIZED = 94
USER_ALREADY_EXISTS = 51003

Client = MongoClient[dict[str, Any]]


class Refused(Exception):
    """It is of no use to try again; says why and what to do."""


def main() -> int:
    """Form the set, make the users. Exits with 1 where MongoDB does not answer in time or refuses."""
    hosts = os.environ.get("MONGO_HOSTS", "mongo:27017").split(",")
    replica_set = os.environ.get("MONGO_REPLICA_SET") or None
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            prepare(hosts, replica_set)
        except Refused as error:
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


def prepare(hosts: list[str], replica_set: str | None) -> None:
    """All of it, once."""
    password = accepted(hosts[:1])
    if replica_set:
        with client(hosts[:1], None, password) as first:
            form(first, replica_set, hosts)
    with client(hosts, replica_set, password) as whole:
        if replica_set is None:
            belongs_to_no_set(whole)
        change_root(whole, password)
        for service, role in ROLES.items():
            admit(whole, service, role)


def client(hosts: list[str], replica_set: str | None, password: str) -> Client:
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


def accepted(first: list[str]) -> str:
    """Root's password that MongoDB takes: the remembered one, or the wanted one where this job ended before it could note it."""
    for password in filter(None, (secret(ROOT), wanted())):
        with client(first, None, password) as root:
            try:
                root.admin.command("ping")
            except OperationFailure as error:
                if error.code != AUTHENTICATION_FAILED:
                    raise
            else:
                return password
    raise Refused(
        "the data were made with another password of root than the one in the volume vault; write that one into .env as "
        "MONGO_ROOT_PASSWORD, or bring back the vault that belongs to them"
    )


def belongs_to_no_set(alone: Client) -> None:
    """Writes that a member of a set takes by itself would be in no oplog: the others would never hear of them."""
    if found := alone.local["system.replset"].find_one():
        raise Refused(
            f"the data belong to the replica set {found['_id']}; start it with deploy/compose.cluster.yml as before, or see "
            "docs/operations.md for the way back to one server"
        )


def change_root(whole: Client, password: str) -> None:
    """Give root the password that is wanted, then remember it: in this order, so that the remembered one is always true."""
    if (new := wanted()) is None:
        return
    if new != password:
        whole.admin.command("updateUser", "root", pwd=new, writeConcern=WRITTEN)
        print("root has a new password")
    (VAULT / WANTED).replace(VAULT / ROOT)


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
        "writeConcern": WRITTEN,
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


def wanted() -> str | None:
    """The password that root shall have, where it is another one."""
    return secret(WANTED) if (VAULT / WANTED).exists() else None


if __name__ == "__main__":
    sys.exit(main())
