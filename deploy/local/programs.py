"""How our own processes are started: the environment that each one gets, and when it is ready.

Knows the names of the modules and of the variables, and imports none of them.
"""

import http.client
import json
import os
import sys
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from deploy.local.ports import HOST
from deploy.local.processes import Program

# These speak of the stack as a whole. A child that read them would take the gateway's port for its own.
STACK_VARIABLES = ("PORT", "DATA", "MONGODB_URI", "REDIS_URL", "GRIDCAST_MONGODB_URI", "GRIDCAST_REDIS_URL")

# Seconds for open requests at the end, unless the environment says otherwise: at a terminal somebody waits for it.
SHUTDOWN_TIMEOUT = "5"


def upload(index: int, port: int, mongodb_uri: str, redis_url: str) -> Program:
    return _service("upload", index, port, {"GRIDCAST_MONGODB_URI": mongodb_uri, "GRIDCAST_REDIS_URL": redis_url})


def stream(index: int, port: int, mongodb_uri: str, redis_url: str) -> Program:
    return _service("stream", index, port, {"GRIDCAST_MONGODB_URI": mongodb_uri, "GRIDCAST_REDIS_URL": redis_url})


def socket(index: int, port: int, redis_url: str) -> Program:
    return _service("socket", index, port, {"GRIDCAST_REDIS_URL": redis_url})


def gateway(port: int, services: Sequence[Program]) -> Program:
    urls = {
        f"GRIDCAST_{kind.upper()}_URLS": ",".join(service.url for service in services if service.kind == kind)
        for kind in ("upload", "stream", "socket")
    }
    return _program("gateway", "gateway", "gateway", port, urls)


def readiness_error(port: int) -> str | None:
    """Why the process at this port is not ready, in the words of its own /readyz; None when it is."""
    connection = http.client.HTTPConnection(HOST, port, timeout=3.0)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read(4096)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer ({error})"
    finally:
        connection.close()
    return None if response.status == HTTPStatus.OK else _failed_checks(body) or f"/readyz answers {response.status}"


def _failed_checks(body: bytes) -> str:
    try:
        checks = json.loads(body)["checks"]
        return ", ".join(f"{name}: {result}" for name, result in checks.items() if result != "ok")
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _service(kind: str, index: int, port: int, settings: Mapping[str, str]) -> Program:
    return _program(f"{kind}-{index}", kind, f"services.{kind}", port, settings)


def _program(name: str, kind: str, module: str, port: int, settings: Mapping[str, str]) -> Program:
    inherited = {key: value for key, value in os.environ.items() if key not in STACK_VARIABLES}
    usual = {"GRIDCAST_SHUTDOWN_TIMEOUT": SHUTDOWN_TIMEOUT, "PYTHONUNBUFFERED": "1"}
    own = {"GRIDCAST_HOST": HOST, "GRIDCAST_PORT": str(port)}
    return Program(
        name=name,
        kind=kind,
        command=(sys.executable, "-m", module),
        url=f"http://{HOST}:{port}",
        readiness_error=lambda: readiness_error(port),
        environment={**usual, **inherited, **own, **settings},
        stop_timeout=30.0,
    )
