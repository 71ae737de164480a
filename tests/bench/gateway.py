"""Gateways side by side in one run: ours, nginx, and one that a tutorial would write with httpx, all before the same upstream.

`.venv/bin/python -m tests.bench.gateway [--seconds S --mib N --messages M --idle N --rounds R] [--quick]`. Each gateway is one
process with its access log on, except the tutorial's, which is as quiet as it gets. Rounds take turns (A B C A B C). Needs nginx,
wrk and curl.
"""

import argparse
import asyncio
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvloop

from deploy.local.ports import HOST, free_ports
from tests.bench.contender import run_contender
from tests.bench.measurements import OURS, Measurement, Target, describe_machine, format_table, missing_programs
from tests.support.open_file_limit import raise_open_file_limit
from tests.support.process_stats import cpu_seconds, resident_memory
from tests.support.processes import run_service
from tests.support.websocket_load import WebSocketSwarm

NGINX, TUTORIAL = "nginx", "tutorial"
NGINX_LARGE_BUFFERS = "nginx-256k"
"""The same with buffers of 256 KiB, quicker with large bodies and heavier in memory; the bounds are for the usual ones."""
NGINX_BUFFER_DIRECTIVES = (
    "proxy_buffer_size 256k; proxy_buffers 8 256k; proxy_busy_buffers_size 256k; client_body_buffer_size 256k;"
)
TOOLS = ("nginx", "wrk", "curl")
CONNECTIONS = 16
WARM_UP = 200
"""Tunnels that are opened and closed before idle ones are measured."""
SETTLE_SECONDS = 2.0
SMALL_TARGET = "/file/info?folder=demo&filename=video.webm"

# One process as ours, an access log as ours. Nothing is buffered before it is passed on, and connections to the
# upstream are kept. tcp_nopush stays off: over loopback it waits for acknowledgements.
NGINX_CONF = """
daemon off; master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections {connections}; }}
http {{
  access_log {folder}/nginx-access.log;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  tcp_nopush off; tcp_nodelay on;
  keepalive_requests 100000000;
  client_max_body_size 0;
  upstream service {{ server {upstream}; keepalive 64; keepalive_requests 100000000; }}
  map $http_upgrade $onward {{ default upgrade; '' ''; }}
  server {{
    listen {host}:{port} backlog=2048;
    location / {{
      proxy_pass http://service;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $onward;
      proxy_request_buffering off; proxy_buffering off; proxy_max_temp_file_size 0;
      proxy_read_timeout 1h; proxy_send_timeout 1h;
      {more}
    }}
  }}
}}
"""

Start = Callable[[], contextlib.AbstractContextManager[tuple[str, int]]]


@dataclass(frozen=True)
class Options:
    seconds: float
    mib: int
    sockets: int
    messages: int
    idle: int
    rounds: int


class Gateways:
    """How each gateway before `upstream` is started, as (url, pid)."""

    def __init__(self, folder: Path, upstream: int, options: Options) -> None:
        self._folder = folder
        self._upstream = f"{HOST}:{upstream}"
        self._connections = 2 * options.idle + 4 * options.sockets + 1024

    @contextlib.contextmanager
    def start_ours(self) -> Iterator[tuple[str, int]]:
        names = ("GRIDCAST_UPLOAD_URLS", "GRIDCAST_STREAM_URLS", "GRIDCAST_SOCKET_URLS", "GRIDCAST_LIVE_URLS")
        with run_service("gateway", self._folder, dict.fromkeys(names, f"http://{self._upstream}")) as service:
            yield service.url, service.pid

    @contextlib.contextmanager
    def start_nginx(self, more: str = "") -> Iterator[tuple[str, int]]:
        (port,) = free_ports(1)
        path = self._folder / f"nginx-{port}.conf"
        path.write_text(
            NGINX_CONF.format(
                folder=self._folder,
                host=HOST,
                port=port,
                upstream=self._upstream,
                connections=self._connections,
                more=more,
            ),
            "utf-8",
        )
        command = [shutil.which("nginx") or "nginx", "-c", str(path), "-e", str(self._folder / "nginx-early.log")]
        with run_contender(NGINX, command, port, self._folder) as pid:
            yield f"http://{HOST}:{port}", pid

    @contextlib.contextmanager
    def start_tutorial(self) -> Iterator[tuple[str, int]]:
        (port,) = free_ports(1)
        env = {"UPSTREAM_URL": f"http://{self._upstream}"}
        command = uvicorn_command("tests.bench.baselines.gateway_httpx:app", port)
        with run_contender(TUTORIAL, command, port, self._folder, env) as pid:
            yield f"http://{HOST}:{port}", pid


def uvicorn_command(application: str, port: int) -> list[str]:
    """With its log off."""
    options = ["--port", str(port), "--no-access-log", "--log-level", "warning", "--backlog", "2048"]
    return [sys.executable, "-m", "uvicorn", application, *options]


def requests_per_second(url: str, seconds: float) -> tuple[int, float]:
    """The number of small responses that wrk got, and their rate per second."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--timeout", "10s", f"{url}{SMALL_TARGET}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 30).stdout
    count, rate = re.search(r"(\d+) requests in", said), re.search(r"Requests/sec:\s+([\d.]+)", said)
    if "Non-2xx" in said or "Socket errors" in said or count is None or rate is None:
        raise RuntimeError(f"wrk on {url}: {said}")
    return int(count[1]), float(rate[1])


def curl(which: str, *arguments: str) -> float:
    """MB/s of one transfer; `which` is the direction as curl names it."""
    command = ["curl", "-sS", "-f", "-o", "/dev/null", "-w", f"%{{speed_{which}}}", *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout) / 1e6


def measure_http(gateways: dict[str, tuple[str, int]], options: Options, folder: Path) -> list[Measurement]:
    """Requests, one download and one upload at a time."""
    small = Measurement("small requests", "req/s", (Target(0.4, NGINX, is_minimum=True),))
    small_cpu = Measurement("CPU per small request", "us")
    down = Measurement(f"download of {options.mib} MiB", "MB/s", (Target(0.9, NGINX, is_minimum=True),))
    down_cpu = Measurement("CPU per GiB down", "s")
    up = Measurement(f"upload of {options.mib} MiB", "MB/s", (Target(0.8, NGINX, is_minimum=True),))
    up_cpu = Measurement("CPU per GiB up", "s")
    length = options.mib * 1024 * 1024
    file = folder / "upload.bin"
    with file.open("wb") as made:
        made.truncate(length)
    for number in range(1 + options.rounds):
        for who, (url, pid) in gateways.items():
            used = [cpu_seconds(pid)]
            count, rate = requests_per_second(url, options.seconds if number else 1.0)
            used.append(cpu_seconds(pid))
            download = curl("download", f"{url}/file/stream?filename={length}")
            used.append(cpu_seconds(pid))
            upload = curl("upload", "-T", str(file), f"{url}/file/stream?filename=video.webm")
            used.append(cpu_seconds(pid))
            if number:  # the first round warms up
                small.add(who, rate)
                small_cpu.add(who, 1e6 * (used[1] - used[0]) / count)
                down.add(who, download)
                down_cpu.add(who, 1024 / options.mib * (used[2] - used[1]))
                up.add(who, upload)
                up_cpu.add(who, 1024 / options.mib * (used[3] - used[2]))
    return [small, small_cpu, down, down_cpu, up, up_cpu]


async def measure_tunnels(gateways: dict[str, tuple[str, int]], options: Options, upstream: int) -> list[Measurement]:
    """One message at a time for each socket: pushed by the service, and echoed."""
    pushed = Measurement("CPU per pushed message", "us", (Target(1.5, NGINX),))
    echoed = Measurement("CPU per message, both ways", "us", (Target(1.5, NGINX),))
    crowds: dict[str, WebSocketSwarm] = {}
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{upstream}", timeout=60.0) as service:
        for who, (url, _) in gateways.items():
            crowds[who] = WebSocketSwarm(f"{url}/ws?meta={who}")
            await crowds[who].connect_clients(options.sockets)
        for number in range(1 + options.rounds):
            messages = options.messages if number else max(10, options.messages // 10)
            for who, crowd in crowds.items():
                pid = gateways[who][1]
                before = cpu_seconds(pid)
                for _ in range(messages):
                    await service.post("/sockets/messages", params={"topic": who})
                    await crowd.wait_until_all_received()
                between = cpu_seconds(pid)
                for _ in range(messages // 2):
                    crowd.send_from_all(b'"ping"')
                    await crowd.wait_until_all_received()
                after = cpu_seconds(pid)
                if number:
                    pushed.add(who, 1e6 * (between - before) / (messages * len(crowd)))
                    echoed.add(who, 1e6 * (after - between) / (messages // 2 * 2 * len(crowd)))
        for crowd in crowds.values():
            await crowd.disconnect_all()
    return [pushed, echoed]


async def measure_idle(starts: dict[str, Start], options: Options) -> list[Measurement]:
    """A new process in each round, so that its memory is that of these tunnels alone."""
    connect = Measurement("CPU per tunnel opened", "us")
    memory = Measurement(f"memory per tunnel, {options.idle} idle", "KiB", (Target(8),))
    for _ in range(options.rounds):
        for who, start in starts.items():
            with start() as (url, pid):
                early = WebSocketSwarm(f"{url}/ws")
                await early.connect_clients(WARM_UP)
                await early.disconnect_all()
                await asyncio.sleep(SETTLE_SECONDS / 2)
                crowd = WebSocketSwarm(f"{url}/ws")
                used, held = cpu_seconds(pid), resident_memory(pid)
                await crowd.connect_clients(options.idle)
                connect.add(who, 1e6 * (cpu_seconds(pid) - used) / options.idle)
                await asyncio.sleep(SETTLE_SECONDS)
                memory.add(who, (resident_memory(pid) - held) / 1024 / options.idle)
                await crowd.disconnect_all()
    return [connect, memory]


def measure(options: Options) -> list[Measurement]:
    """Run all measurements."""
    raise_open_file_limit(2 * options.idle + 4 * options.sockets + 2048)
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        stack.enter_context(
            run_contender("upstream", uvicorn_command("tests.bench.peers.upstream:app", port), port, folder)
        )
        gateways = Gateways(folder, port, options)
        tunnelling: dict[str, Start] = {OURS: gateways.start_ours, NGINX: gateways.start_nginx}
        with contextlib.ExitStack() as together:
            started = {who: together.enter_context(start()) for who, start in tunnelling.items()}
            others = {
                NGINX_LARGE_BUFFERS: together.enter_context(gateways.start_nginx(NGINX_BUFFER_DIRECTIVES)),
                TUTORIAL: together.enter_context(gateways.start_tutorial()),
            }
            figures = measure_http({**started, **others}, options, folder)
            figures += uvloop.run(measure_tunnels(started, options, port))
        return figures + uvloop.run(measure_idle(tunnelling, options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of small requests in one round")
    parser.add_argument("--mib", type=int, default=512, help="of one transfer")
    parser.add_argument("--sockets", type=int, default=200, help="whose messages are counted")
    parser.add_argument("--messages", type=int, default=1000, help="for each socket in one round")
    parser.add_argument("--idle", type=int, default=5000, help="tunnels that only stay open")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    given = parser.parse_args()
    options = Options(given.seconds, given.mib, given.sockets, given.messages, given.idle, given.rounds)
    if given.quick:
        options = Options(2.0, 128, 100, 200, 500, 2)
    if missing := missing_programs(TOOLS):
        print(f"needed and not found: {', '.join(missing)}")
        return
    for line in describe_machine(("nginx", "-v"), ("curl", "--version")):
        print(line)
    print(f"{options.sockets} sockets, {options.messages} messages, {options.rounds} rounds")
    for line in format_table(measure(options), (OURS, NGINX, NGINX_LARGE_BUFFERS, TUTORIAL)):
        print(line)


if __name__ == "__main__":
    main()
