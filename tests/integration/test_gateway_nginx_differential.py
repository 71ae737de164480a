"""nginx as an oracle: with the same bytes and the same upstream, it and the gateway must read a request in the same way.

They may differ in what they reject. Of what both forward, the upstream must have received the same: methods, targets, bodies and
their number.
"""

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from deploy.local.ports import free_ports
from gateway.routes import match_route
from services.common.errors import GridcastError
from tests.integration.test_gateway_framing import FRAMING_CASES, FramingCase
from tests.integration.test_gateway_fuzz import mutate_request
from tests.support.processes import ServiceProcess, run_service
from tests.support.raw_sockets import accepts_connections
from tests.support.scripted_upstream import ScriptedUpstream, send_raw, upstream_env
from tests.support.waiting import eventually

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine")

NGINX_CONF = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  client_max_body_size 0; large_client_header_buffers 8 40k; client_header_timeout 2s; client_body_timeout 2s;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{service}; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_request_buffering off; proxy_buffering off; proxy_next_upstream off;
    }}
  }}
}}
"""
PIPELINED_REQUEST = b"GET /file?behind HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def nginx(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder: Path = tmp_path_factory.mktemp("nginx")
    (port,) = free_ports(1)
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX_CONF.format(folder=folder, port=port, service=upstream.port))
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-e", f"{folder}/error.log", "-c", str(configuration), "-p", str(folder)])
    try:
        eventually(lambda: accepts_connections(port), 5, "nginx listens")
        yield port
    finally:
        process.terminate()
        process.wait(5)


@pytest.fixture(scope="module")
def gateway(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    timeouts = {"GRIDCAST_CLIENT_BODY_TIMEOUT": "1"}
    with run_service("gateway", tmp_path_factory.mktemp("gateway"), upstream_env(upstream) | timeouts) as gateway:
        yield gateway


def requests_seen_by_upstream(port: int, raw: bytes, service: ScriptedUpstream) -> list[tuple[str, str, bytes]]:
    """The complete requests that the upstream received; an empty query counts as none."""
    service.reset()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError, TimeoutError):
        send_raw(port, raw, 5)
    return [(seen.method, seen.target.removesuffix("?"), seen.body) for seen in service.requests if seen.complete]


@pytest.mark.parametrize("case", FRAMING_CASES, ids=lambda case: case.name)
def test_the_twins_are_read_alike(
    gateway: ServiceProcess, nginx: int, upstream: ScriptedUpstream, case: FramingCase
) -> None:
    ours, theirs = (
        requests_seen_by_upstream(port, case.valid_raw + PIPELINED_REQUEST, upstream) for port in (gateway.port, nginx)
    )
    assert len(ours) == 2
    assert ours == theirs


def is_routed(request: tuple[str, str, bytes]) -> bool:
    """Return whether the gateway has a route for it."""
    method, target, body = request
    try:
        return bool(body) or match_route(method, unquote(target.partition("?")[0])).service != "gateway"
    except GridcastError:
        return False


def test_mutants_accepted_by_both_are_read_alike(
    gateway: ServiceProcess, nginx: int, upstream: ScriptedUpstream
) -> None:
    seed = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    print(f"SEED={seed}")
    chance = random.Random(seed)
    compared = 0
    for _ in range(200):
        # Without requests that the gateway responds to itself: a preflight, a WebSocket.
        raw = mutate_request(chance).replace(b"websocket", b"nothing").replace(b"Access-Control-", b"X-")
        # For any mutant, this ends it: neither server waits for more.
        raw += b"\r\n\r\n\x00" + PIPELINED_REQUEST
        ours, theirs = (requests_seen_by_upstream(port, raw, upstream) for port in (gateway.port, nginx))
        # A request without a body and without a route is rejected, and those after it are read nevertheless.
        theirs = [seen for seen in theirs if is_routed(seen)]
        both = min(len(ours), len(theirs))
        assert ours[:both] == theirs[:both], (seed, raw, ours, theirs)
        compared += both
    assert compared > 10
