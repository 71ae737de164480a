"""What a credential costs: hot 64 KiB ranges and small requests with a token and with a signed link, and the memory of a socket
with a token, against none, in one run.

`.venv/bin/python -m tests.bench.credentials [--quick]`. Two stream services read one store, one with authentication and one
without; each is one process, and new in each round: two processes of one program differ by up to a tenth, for as long as they live,
by where their memory happens to lie. Contenders take turns (A B C, C B A), and medians are compared. Each socket has a token of its
own, of a subject of its own. Needs wrk.
"""

import argparse
import asyncio
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from deploy.local import databases
from tests.bench.measurements import OURS, Measurement, Target, describe_machine, format_table
from tests.bench.stream import CONNECTIONS
from tests.support.databases import run_server, small_mongod_program, storage_env
from tests.support.open_file_limit import raise_open_file_limit
from tests.support.process_stats import resident_memory
from tests.support.processes import ServiceProcess, run_service
from tests.support.sizes import MIB
from tests.support.tokens import AUTH_ENV, authorized
from tests.support.websocket_load import WebSocketSwarm

DATABASE = "bench_credentials"
TOKEN, LINK, OPEN = "with a token", "with a link", "without"
LEAST = 0.9
"""Of the rate without a credential."""
MOST_KIB = 1.0
"""That a token adds to the memory of a socket."""
WARM_UP = 200
"""Sockets that are opened and closed before others are measured."""
SETTLE_SECONDS = 2.0
LENGTHS = {"hot 64 KiB ranges": 64 * 1024, "small requests": 100}

WRK_SCRIPT = """
local size, length = {size}, {length}
math.randomseed({seed})
local fields = {{ {fields} }}
function request()
  local first = math.random(0, size - length)
  fields["Range"] = "bytes=" .. first .. "-" .. (first + length - 1)
  return wrk.format("GET", nil, fields)
end
"""


def requests_per_second(
    url: str, headers: dict[str, str], size: int, length: int, seconds: float, folder: Path, seed: int
) -> float:
    """What wrk counts. Raises RuntimeError where one request was not answered with its range."""
    fields = ", ".join(f'["{name}"] = "{value}"' for name, value in headers.items())
    script = folder / "credentials.lua"
    script.write_text(WRK_SCRIPT.format(size=size, length=length, seed=seed, fields=fields))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(script), url]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 30).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"wrk: {said}")
    (line,) = [line for line in said.splitlines() if line.startswith("Requests/sec:")]
    return float(line.split()[1])


def measure_requests(folder: Path, size: int, seconds: float, rounds: int) -> list[Measurement]:
    """Run all rounds of requests. The contenders differ in their credential alone; the file and the seeds are the same."""
    figures = {
        (kind, credential): Measurement(f"{kind}, {credential}", "req/s", [Target(LEAST, OPEN, is_minimum=True)])
        for kind in LENGTHS
        for credential in (TOKEN, LINK)
    }
    with (
        run_server(folder / "mongod", small_mongod_program) as mongod,
        run_server(folder / "redis", databases.redis_server) as redis,
    ):
        env = storage_env(mongod, redis.url, DATABASE)
        with run_service("services.upload", folder, {**env, **AUTH_ENV}) as upload:
            link = prepare(upload, size)
        for number in range(rounds):
            with (
                run_service("services.stream", folder, env) as open_stream,
                run_service("services.stream", folder, {**env, **AUTH_ENV}) as stream,
            ):
                path = link.partition("?")[0]
                contenders: dict[str, tuple[str, dict[str, str]]] = {
                    OPEN: (f"{open_stream.url}{path}", {}),
                    TOKEN: (f"{stream.url}{path}", authorized("read:demo")),
                    LINK: (f"{stream.url}{link}", {}),
                }
                for (kind, who), rate in run_round(contenders, size, seconds, number, folder).items():
                    for credential in (TOKEN, LINK) if who == OPEN else (who,):
                        figures[kind, credential].add(OPEN if who == OPEN else OURS, rate)
    return list(figures.values())


def prepare(upload: ServiceProcess, size: int) -> str:
    """Store a file and return a link to it."""
    headers = authorized("read write link")
    stored = httpx.put(f"{upload.url}/files/demo/hot.webm", content=bytes(size), headers=headers, timeout=120)
    stored.raise_for_status()
    wanted = {"links": [{"folder": "demo", "filename": "hot.webm"}]}
    made = httpx.post(f"{upload.url}/file/link", json=wanted, headers=headers).raise_for_status()
    url: str = made.json()["links"][0]["url"]
    return url


def run_round(
    contenders: dict[str, tuple[str, dict[str, str]]], size: int, seconds: float, number: int, folder: Path
) -> dict[tuple[str, str], float]:
    """Measure each contender once, after a run that fills its caches; the order is turned round from round to round."""
    order = list(contenders)[:: 1 if number % 2 else -1]
    for who in order:
        url, headers = contenders[who]
        requests_per_second(url, headers, size, max(LENGTHS.values()), seconds / 4, folder, number)
    return {
        (kind, who): requests_per_second(*contenders[who], size, length, seconds, folder, number + 1)
        for kind, length in LENGTHS.items()
        for who in order
    }


def measure_sockets(folder: Path, sockets: int, rounds: int) -> list[Measurement]:
    """Resident memory of idle sockets, in a new process each time: first without tokens, then with one for each socket."""
    total = Measurement(f"memory of a socket, {sockets} idle", "KiB")
    added = Measurement("memory that its token adds", "KiB", [Target(MOST_KIB)])
    subjects = (f"user{number}" for number in itertools.count())
    with (
        run_server(folder / "mongod", small_mongod_program) as mongod,
        run_server(folder / "redis", databases.redis_server) as redis,
    ):
        env = {**storage_env(mongod, redis.url, DATABASE), "GRIDCAST_HANDSHAKE_RATE": "100000"}
        with run_service("services.upload", folder, {**env, **AUTH_ENV}):  # tells the revocations that sockets need
            for _ in range(rounds):
                without = idle_socket_kib(folder, env, sockets, dict)
                with_token = idle_socket_kib(
                    folder, {**env, **AUTH_ENV}, sockets, lambda: authorized("listen push", next(subjects))
                )
                total.add(OPEN, without)
                total.add(OURS, with_token)
                added.add(OURS, with_token - without)
    return [total, added]


def idle_socket_kib(
    folder: Path, env: dict[str, str], sockets: int, make_headers: Callable[[], Mapping[str, str]]
) -> float:
    """Open `sockets` idle connections to a new service, and return its growth in resident memory per connection, in KiB."""

    async def measure(service: ServiceProcess) -> float:
        early = WebSocketSwarm(f"{service.url}/ws", make_headers=make_headers)
        await early.connect_clients(WARM_UP)
        await early.disconnect_all()
        await asyncio.sleep(SETTLE_SECONDS / 2)
        before = resident_memory(service.pid)
        swarm = WebSocketSwarm(f"{service.url}/ws", make_headers=make_headers)
        await swarm.connect_clients(sockets)
        await asyncio.sleep(SETTLE_SECONDS)
        held = resident_memory(service.pid) - before
        await swarm.disconnect_all()
        return held / 1024 / sockets

    with run_service("services.socket", folder, env) as service:
        return asyncio.run(measure(service))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        print("needed and not found: wrk")
        return
    size, seconds, rounds = (16 * MIB, 2.0, 3) if options.quick else (64 * MIB, 4.0, 9)
    sockets, socket_rounds = (500, 2) if options.quick else (5000, 5)
    raise_open_file_limit(2 * sockets + 256)
    for line in describe_machine():
        print(line)
    print(f"a file of {size // MIB} MiB, {CONNECTIONS} connections, {rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        figures = [
            *measure_requests(Path(folder), size, seconds, rounds),
            *measure_sockets(Path(folder) / "sockets", sockets, socket_rounds),
        ]
        for line in format_table(figures, (OURS, OPEN)):
            print(line)


if __name__ == "__main__":
    main()
