"""Command lines, environments and readiness checks of the gateway and the services, which are named, not imported."""

import http.client
import json
import os
import sys
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

from deploy.ingest.listeners import PORTS, publisher_url, read_settings
from deploy.local.ports import HOST
from deploy.local.processes import Program

# Variables of the stack as a whole. A child that inherited PORT would listen on the gateway's port.
STACK_VARIABLES = ("PORT", "DATA", "STORE", "MONGODB_URI", "REDIS_URL", "GRIDCAST_MONGODB_URI", "GRIDCAST_REDIS_URL")

# Seconds for open requests at shutdown, unless the environment sets another value. Short, because a user waits at the terminal.
SHUTDOWN_TIMEOUT = "5"


DEFAULT_INGEST_PORTS = {"INGEST_RTMP_PORT": "1935", "INGEST_SRT_PORT": "8890"}


def gridfs_settings(mongodb_uri: str) -> dict[str, str]:
    """The variables by which services find the store GridFS."""
    return {"GRIDCAST_STORE": "gridfs", "GRIDCAST_MONGODB_URI": mongodb_uri}


def files_settings(folder: Path) -> dict[str, str]:
    """The variables by which services find the files store: in `folder`, unless the environment names another one."""
    if os.environ.get("GRIDCAST_FILES_DIR") or os.environ.get("GRIDCAST_FILES_DIR_FILE"):
        return {"GRIDCAST_STORE": "files"}
    return {"GRIDCAST_STORE": "files", "GRIDCAST_FILES_DIR": str(folder)}


def upload(index: int, port: int, store: Mapping[str, str], redis_url: str) -> Program:
    return _service("upload", index, port, {**store, "GRIDCAST_REDIS_URL": redis_url})


def stream(index: int, port: int, store: Mapping[str, str], redis_url: str) -> Program:
    return _service("stream", index, port, {**store, "GRIDCAST_REDIS_URL": redis_url})


def socket(index: int, port: int, redis_url: str) -> Program:
    return _service("socket", index, port, {"GRIDCAST_REDIS_URL": redis_url})


def live(index: int, port: int, store: Mapping[str, str], redis_url: str) -> Program:
    return _service("live", index, port, {**store, "GRIDCAST_REDIS_URL": redis_url})


def gateway(port: int, services: Sequence[Program]) -> Program:
    urls = {
        f"GRIDCAST_{kind.upper()}_URLS": ",".join(service.url for service in services if service.kind == kind)
        for kind in ("upload", "stream", "socket", "live")
    }
    # The gateway only routes: it verifies no token.
    return _program(
        "gateway", "gateway", "gateway", port, urls, without=("GRIDCAST_AUTH_SECRET", "GRIDCAST_AUTH_SECRET_FILE")
    )


def ingest(gateway_url: str, key: str, heartbeat: Path) -> Program:
    """The listeners of ffmpeg before a gateway. The ports are those of the environment, by default those of RTMP and SRT."""
    inherited = {name: value for name, value in os.environ.items() if name not in STACK_VARIABLES}
    ports = {} if any(os.environ.get(name) for name in PORTS.values()) else DEFAULT_INGEST_PORTS
    settings = {"INGEST_URL": gateway_url, "INGEST_KEY": key, "INGEST_HEARTBEAT": str(heartbeat), **ports}
    listeners = read_settings({**inherited, **settings}, key).listeners
    return Program(
        name="ingest",
        kind="ingest",
        command=(sys.executable, "-m", "deploy.ingest"),
        url=" ".join(publisher_url(listener, HOST, key) for listener in listeners),
        readiness_error=lambda: None if heartbeat.exists() else "it does not listen yet",
        environment={"PYTHONUNBUFFERED": "1", **inherited, **settings},
        stop_timeout=30.0,
    )


def readiness_error(port: int) -> str | None:
    """The reason why the process at this port is not ready, from its /readyz; None if it is ready."""
    connection = http.client.HTTPConnection(HOST, port, timeout=3.0)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read(4096)
    except (OSError, http.client.HTTPException) as error:
        return f"no response ({error})"
    finally:
        connection.close()
    return (
        None if response.status == HTTPStatus.OK else _failed_checks(body) or f"/readyz responds with {response.status}"
    )


def _failed_checks(body: bytes) -> str:
    try:
        checks = json.loads(body)["checks"]
        return ", ".join(f"{name}: {result}" for name, result in checks.items() if result != "ok")
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _service(kind: str, index: int, port: int, settings: Mapping[str, str]) -> Program:
    return _program(f"{kind}-{index}", kind, f"services.{kind}", port, settings)


def _program(
    name: str, kind: str, module: str, port: int, settings: Mapping[str, str], without: tuple[str, ...] = ()
) -> Program:
    inherited = {key: value for key, value in os.environ.items() if key not in {*STACK_VARIABLES, *without}}
    # The gateway's address, also for the services, whose own says nothing: an instance that others reach must not be open.
    defaults = {"GRIDCAST_PUBLIC_ADDRESS": HOST, "GRIDCAST_SHUTDOWN_TIMEOUT": SHUTDOWN_TIMEOUT, "PYTHONUNBUFFERED": "1"}
    fixed = {"GRIDCAST_HOST": HOST, "GRIDCAST_PORT": str(port)}
    return Program(
        name=name,
        kind=kind,
        command=(sys.executable, "-m", module),
        url=f"http://{HOST}:{port}",
        readiness_error=lambda: readiness_error(port),
        environment={**defaults, **inherited, **fixed, **settings},
        stop_timeout=30.0,
    )
