"""Generates the passwords of a compose project and writes each container's credentials: a job that runs before all others.

A password comes from the environment, else from the vault, else it is generated. The vault is a volume that only the jobs mount;
each directory below `/out` is a volume of one kind of container. The job is idempotent unless the environment changes.
It connects to no server: `mongodb_setup.py` sets the passwords in MongoDB, and Redis reads its file at start. So a new password of
MongoDB's root is stored as pending: the vault keeps the one that MongoDB accepts, which is needed to change it.
"""

import base64
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

VAULT = Path("/vault")
CONTAINERS_DIR = Path("/out")

ROOT_PASSWORD = "MONGO_ROOT_PASSWORD"  # noqa: S105  # the name of a variable, not a password
PASSWORDS = (
    ROOT_PASSWORD,
    "MONGO_UPLOAD_PASSWORD",
    "MONGO_STREAM_PASSWORD",
    "REDIS_UPLOAD_PASSWORD",
    "REDIS_STREAM_PASSWORD",
    "REDIS_SOCKET_PASSWORD",
    "REDIS_REPLICA_PASSWORD",
    "REDIS_SENTINEL_PASSWORD",
    "REDIS_SENTINEL_CLIENT_PASSWORD",
    "REDIS_PUBLISHER_PASSWORD",
    "MONGO_LIVE_PASSWORD",
    "REDIS_LIVE_PASSWORD",
)
FILES_STORE = "files"
REPLICA_SET_KEY = "MONGO_KEY"
"""The key by which the members of a replica set authenticate to each other: base64, 6 to 1,024 characters."""

AUTH_SECRET = "GRIDCAST_AUTH_SECRET"  # noqa: S105  # the name of a variable
"""The ring of secrets with which tokens are signed (docs/auth.md). The services check its form."""

_AUTH_SECRET_PATTERN = re.compile(r"[!-~][ -~]{31,16383}")
_PASSWORD_PATTERN = re.compile(r"[A-Za-z0-9._~-]{16,128}")
_KEY_PATTERN = re.compile(r"[A-Za-z0-9+/=]{6,1024}")

# Gridcast's keys and channels only; no FLUSH*, KEYS or CONFIG; EVAL, because a push is a script.
# All of @connection and not only PING and SELECT: redis-py sends its name and version to servers that support it.
SOCKET_ACL = (
    "~gridcast:* &gridcast:* -@all +@read +@write +@pubsub +@connection +@transaction +eval +evalsha +time -@dangerous"
    " +info"  # another run id means that Redis has lost its memory
)
# A push, which is a script, and the commands of that script.
_PUSH_COMMANDS = (
    "-@all +@connection -@dangerous +eval +evalsha +publish +time"
    " +get +set +exists +expire +hget +hmget +hset +hincrby +xadd +xrevrange"
)
UPLOAD_ACL = f"~gridcast:* &gridcast:* {_PUSH_COMMANDS}"
# Pushes, invalidates the files that it makes, and wakes those who serve a stream.
LIVE_ACL = UPLOAD_ACL
# A service of one's own: the keys and channels of a push. It changes no session and invalidates no file.
PUBLISHER_ACL = (
    "~gridcast:sequence ~gridcast:history:* ~gridcast:once:* %R~gridcast:sid:* %R~gridcast:node:*"
    f" &gridcast:all &gridcast:topic:* &gridcast:node:* {_PUSH_COMMANDS}"
)
# Subscribes to invalidations and to wake-ups of live streams, and counts their viewers: keys of its own, pushes to their topics.
# Two selectors, because it must not publish what it subscribes to.
STREAM_ACL = (
    "&gridcast:invalidate &gridcast:live -@all +@connection -@dangerous +subscribe +unsubscribe"
    " (~gridcast:live:* ~gridcast:sequence ~gridcast:history:* ~gridcast:once:* &gridcast:topic:live/*"
    f" {_PUSH_COMMANDS} +pfadd +pfcount)"
)
REPLICA_ACL = "-@all +psync +replconf +ping"
# At the Sentinels themselves, for everyone who has a Redis URL: the address of the master and its changes, and nothing else.
SENTINEL_CLIENT_ACL = (
    "&+switch-master -@all +@connection -@dangerous +subscribe +unsubscribe +sentinel|masters +sentinel|master"
    " +sentinel|replicas +sentinel|slaves +sentinel|sentinels +sentinel|get-master-addr-by-name"
)
SENTINEL_ACL = (
    "&* -@all +multi +exec +slaveof +ping +subscribe +publish +info +role +config|rewrite"
    " +client|setname +client|kill +script|kill"
)


def main() -> int:
    """Write every file. Returns 1 if a value of the environment is invalid."""
    try:
        values = {name: _load_or_generate(name, _PASSWORD_PATTERN, lambda: secrets.token_hex(24)) for name in PASSWORDS}
        values[REPLICA_SET_KEY] = _load_or_generate(
            REPLICA_SET_KEY, _KEY_PATTERN, lambda: base64.b64encode(secrets.token_bytes(96)).decode()
        )
        values[AUTH_SECRET] = _load_or_generate(AUTH_SECRET, _AUTH_SECRET_PATTERN, lambda: secrets.token_hex(32))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    pending, current = VAULT / f"{ROOT_PASSWORD.lower()}.wanted", _read_vault(ROOT_PASSWORD)
    if os.environ.get(ROOT_PASSWORD):
        pending.unlink(missing_ok=True)
    if current is not None and current != values[ROOT_PASSWORD]:
        _write_atomically(pending, values[ROOT_PASSWORD])
        values[ROOT_PASSWORD] = current
    for name, text in {**vault_files(values), **container_files(values, os.environ)}.items():
        _write_atomically(Path(name), text)
    print(f"{len(values)} credentials are in place")
    return 0


def vault_files(values: Mapping[str, str]) -> dict[str, str]:
    """The files of the vault by path."""
    return {f"{VAULT}/{name.lower()}": value for name, value in values.items()}


def container_files(values: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The files of the containers' volumes by path. Where STORE is `files` there is no MongoDB, whose volumes are not mounted."""
    files = {
        f"{CONTAINERS_DIR}/redis/users.acl": redis_acl_file(values),
        f"{CONTAINERS_DIR}/redis/redis.conf": redis_conf(values),
        f"{CONTAINERS_DIR}/redis/sentinel.conf": sentinel_conf(values, environment),
    }
    for service in ("upload", "stream", "socket", "live", "publisher"):
        files[f"{CONTAINERS_DIR}/{service}/redis_url"] = redis_url(service, values, environment)
    for service in ("upload", "stream", "socket", "live"):
        files[f"{CONTAINERS_DIR}/{service}/auth_secret"] = values[AUTH_SECRET]
    if environment.get("STORE") == FILES_STORE:
        return files
    files[f"{CONTAINERS_DIR}/mongo/root_password"] = values["MONGO_ROOT_PASSWORD"]
    files[f"{CONTAINERS_DIR}/mongo/key"] = values[REPLICA_SET_KEY]
    for service in ("upload", "stream", "live"):
        files[f"{CONTAINERS_DIR}/{service}/mongodb_uri"] = mongodb_uri(service, values, environment)
    return files


def mongodb_uri(service: str, values: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """The MongoDB URI of a service."""
    password = quote(values[f"MONGO_{service.upper()}_PASSWORD"], safe="")
    replica_set = environment.get("MONGO_REPLICA_SET")
    options = f"?replicaSet={replica_set}" if replica_set else ""
    return f"mongodb://{service}:{password}@{environment.get('MONGO_HOSTS', 'mongo:27017')}/gridcast{options}"


def redis_url(service: str, values: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """The Redis URL of a service, through Sentinel if REDIS_SENTINELS is set."""
    password = quote(values[f"REDIS_{service.upper()}_PASSWORD"], safe="")
    sentinels = environment.get("REDIS_SENTINELS")
    if not sentinels:
        return f"redis://{service}:{password}@redis:6379/0"
    sentinel_password = quote(values["REDIS_SENTINEL_CLIENT_PASSWORD"], safe="")
    return f"redis+sentinel://{service}:{password}@{sentinels}/gridcast/0?sentinel_password={sentinel_password}"


def redis_acl_file(values: Mapping[str, str]) -> str:
    """The ACL file of Redis. It has hashes only, which do not suffice to log in."""
    rules = {
        "upload": UPLOAD_ACL,
        "stream": STREAM_ACL,
        "socket": SOCKET_ACL,
        "live": LIVE_ACL,
        "publisher": PUBLISHER_ACL,
        "replica": REPLICA_ACL,
        "sentinel": SENTINEL_ACL,
    }
    lines = ["user default reset off"]
    for user, rule in rules.items():
        lines.append(_acl_line(user, values[f"REDIS_{user.upper()}_PASSWORD"], rule))
    return "\n".join(lines) + "\n"


def _acl_line(user: str, password: str, rule: str) -> str:
    return f"user {user} reset resetchannels on #{hashlib.sha256(password.encode()).hexdigest()} {rule}"


def redis_conf(values: Mapping[str, str]) -> str:
    """Redis without persistence, as no data must survive a restart. A full Redis rejects writes instead of evicting keys."""
    return f"""\
aclfile /run/gridcast/users.acl
protected-mode no
dir /data
save ""
appendonly no
repl-diskless-sync-delay 0
maxmemory 256mb
maxmemory-policy noeviction
masteruser replica
masterauth {values["REDIS_REPLICA_PASSWORD"]}
"""


def sentinel_conf(values: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """The initial configuration of a Sentinel, with addresses only: a Sentinel does not monitor while it resolves a host name.

    Clients of the Sentinels have another password than the Sentinels: those may change the role of a server, here and in Redis.
    """
    master = environment.get("REDIS_MASTER", "127.0.0.1")
    return f"""\
port 26379
dir /data
protected-mode no
{_acl_line("default", values["REDIS_SENTINEL_CLIENT_PASSWORD"], SENTINEL_CLIENT_ACL)}
{_acl_line("sentinel", values["REDIS_SENTINEL_PASSWORD"], "allchannels +@all")}
sentinel sentinel-user sentinel
sentinel sentinel-pass {values["REDIS_SENTINEL_PASSWORD"]}
sentinel monitor gridcast {master} 6379 2
sentinel auth-user gridcast sentinel
sentinel auth-pass gridcast {values["REDIS_SENTINEL_PASSWORD"]}
sentinel down-after-milliseconds gridcast 3000
sentinel failover-timeout gridcast 10000
sentinel parallel-syncs gridcast 1
"""


def _load_or_generate(name: str, pattern: re.Pattern[str], generate: Callable[[], str]) -> str:
    given = os.environ.get(name, "")
    if not given:
        return _read_vault(name) or generate()
    if not pattern.fullmatch(given):
        raise ValueError(f"{name} must match {pattern.pattern}")
    return given


def _read_vault(name: str) -> str | None:
    path = VAULT / name.lower()
    return path.read_text("ascii") if path.exists() else None


def _write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step: a job that is interrupted leaves no partial password."""
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(text, "ascii")
    # The readers run as other users. Access is limited by which container mounts the volume.
    fresh.chmod(0o444)
    fresh.replace(path)


if __name__ == "__main__":
    sys.exit(main())
