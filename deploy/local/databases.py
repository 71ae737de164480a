"""Command lines and readiness checks of mongod and redis-server. The tests' fixtures use them as well."""

import re
import socket
import warnings
from pathlib import Path

import pymongo
import pymongo.errors

from deploy.local import binaries
from deploy.local.ports import HOST
from deploy.local.processes import Program
from gridcast._bus.redis_url import check_redis_url
from services.common.mongodb_uri import check_mongodb_uri


def mongod(data_dir: Path, port: int, *, cache_gb: float = 1.0, inherited_fds: tuple[int, ...] = ()) -> Program:
    """A standalone server: a replica set of one member would write each chunk twice."""
    data_dir.mkdir(parents=True, exist_ok=True)
    uri = mongodb_uri(port)
    command = [
        str(binaries.find_mongod()),
        f"--dbpath={data_dir}",
        f"--bind_ip={HOST}",
        f"--port={port}",
        f"--wiredTigerCacheSizeGB={cache_gb:g}",
        # Not zlib: old servers leak memory contents to clients that declare a wrong uncompressed length.
        "--networkMessageCompressors=snappy,zstd",
        # A socket file in the shared temporary directory would outlive a killed server.
        "--nounixsocket",
        "--quiet",
        # Saves up to 200 MB of diagnostic data, which the local run does not use.
        "--setParameter=diagnosticDataCollectionEnabled=false",
    ]
    return Program(
        name="mongod",
        kind="mongod",
        command=tuple(command),
        url=uri,
        readiness_error=lambda: _connect_error(port) or mongodb_error(uri, timeout=2.0),
        inherited_fds=inherited_fds,
        # mongod writes a checkpoint of its cache before it ends.
        stop_timeout=60.0,
        install_hint="the bundled mongod needs OpenSSL 3 and libcurl 4, packages libssl3 and libcurl4",
    )


def redis_server(data_dir: Path, port: int, *, inherited_fds: tuple[int, ...] = ()) -> Program:
    """Without persistence: Redis holds no data that must survive a restart."""
    data_dir.mkdir(parents=True, exist_ok=True)
    command = [
        str(binaries.find_redis_server()),
        *("--bind", HOST),
        *("--port", str(port)),
        *("--dir", str(data_dir)),
        *("--save", ""),
        *("--appendonly", "no"),
        *("--loglevel", "warning"),
    ]
    return Program(
        name="redis-server",
        kind="redis-server",
        command=tuple(command),
        url=redis_url(port),
        readiness_error=lambda: _redis_error(port),
        inherited_fds=inherited_fds,
    )


def mongodb_uri(port: int) -> str:
    return f"mongodb://{HOST}:{port}"


def redis_url(port: int) -> str:
    return f"redis://{HOST}:{port}/0"


def mongodb_error(uri: str, timeout: float) -> str | None:
    """The reason why the MongoDB at `uri` does not respond within `timeout` seconds, without a part of `uri`; None if it does."""
    try:
        check_mongodb_uri(uri)
    except ValueError as error:
        return str(error)
    # Errors and warnings of the driver quote names of databases and values of options.
    with warnings.catch_warnings(action="ignore"):
        try:
            client = pymongo.MongoClient[dict[str, object]](uri, serverSelectionTimeoutMS=int(timeout * 1000))
        except (pymongo.errors.PyMongoError, ValueError, TypeError, OSError):
            return "the connection string has an invalid value, or names a file or a host that cannot be found"
    try:
        with client:
            client.admin.command("ping")
    except (pymongo.errors.PyMongoError, ValueError) as error:
        return re.split(r" \(configured timeouts|, Timeout:|\n", str(error))[0]
    return None


def redis_url_error(url: str) -> str | None:
    """The fault of a Redis URL, without a part of it; None for a valid one."""
    try:
        check_redis_url(url)
    except ValueError as error:
        return str(error)
    return None


def _connect_error(port: int) -> str | None:
    # The driver would wait for the server instead of reporting at once that it does not listen yet.
    try:
        socket.create_connection((HOST, port), timeout=1.0).close()
    except OSError as error:
        return f"no connection ({error})"
    return None


def _redis_error(port: int) -> str | None:
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            reply = connection.recv(64)
    except OSError as error:
        return f"no connection ({error})"
    return None if reply.startswith(b"+PONG") else f"unexpected reply {reply!r}"
