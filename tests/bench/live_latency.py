"""From a picture of the publisher to the same picture at a player, by bar code, and the first picture of one that joins.

`.venv/bin/python -m tests.bench.live_latency [--quick] [--rtmp-module PATH]`. Each picture that ffmpeg encodes shows the clock at
which it was drawn, as bars; the player, also ffmpeg, begins two segments behind the newest one, plays at the media's own speed, and
its pictures are compared with the clock. Ours is the whole local stack with its gateway, which gets one endless body. The baseline
is nginx with its RTMP module (Debian's libnginx-mod-rtmp); where that is not found, nginx serves what ffmpeg's own muxer writes.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import httpx

from deploy.local.ports import HOST, free_ports
from tests.bench.contender import run_contender
from tests.bench.measurements import OURS, Measurement, Target, describe_machine, format_table, missing_programs
from tests.support.stack import run_stack

NGINX = "nginx"
TOOLS = ("nginx", "ffmpeg")
RTMP_MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")
RATE = 25
BITS, BAR_WIDTH, HEIGHT = 20, 16, 64
WIDTH = BITS * BAR_WIDTH
PICTURE_BYTES = WIDTH * HEIGHT
GLASS_TARGETS = {2: (6.5, 8.5), 1: (4.0, 5.5)}
"""Seconds, median and p95, by target duration."""
JOIN_TIMEOUT = 60.0

NGINX_CONF = """
{user}{load}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
{rtmp}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen {host}:{port}; root {folder}/files; }}
}}
"""
RTMP_CONF = """
rtmp {{
  server {{
    listen {host}:{rtmp_port};
    application live {{
      live on; hls on; hls_path {folder}/files; hls_fragment {target}s; hls_playlist_length 60s;
    }}
  }}
}}
"""


def draw(milliseconds: int) -> bytes:
    """A picture that shows a number: white bars for ones, and inverted in its lower half."""
    bits = [milliseconds >> shift & 1 for shift in reversed(range(BITS))]
    upper = b"".join((b"\xeb" if bit else b"\x10") * BAR_WIDTH for bit in bits)
    lower = b"".join((b"\x10" if bit else b"\xeb") * BAR_WIDTH for bit in bits)
    return upper * (HEIGHT // 2) + lower * (HEIGHT // 2)


def read_bars(picture: bytes) -> int | None:
    """The number that a picture shows; None where its halves contradict each other."""
    rows = [picture[WIDTH * row : WIDTH * (row + 1)] for row in (HEIGHT // 4, HEIGHT * 3 // 4)]
    upper, lower = ([row[BAR_WIDTH * bar + BAR_WIDTH // 2] > 127 for bar in range(BITS)] for row in rows)
    if any(one == other for one, other in zip(upper, lower, strict=True)):
        return None
    return sum(bit << shift for bit, shift in zip(upper, reversed(range(BITS)), strict=True))


def clock() -> int:
    """Milliseconds, modulo what the bars can show."""
    return time.monotonic_ns() // 1_000_000 % (1 << BITS)


@contextlib.asynccontextmanager
async def publishing(target: int, *output: str) -> AsyncIterator[None]:
    """Publish pictures of the clock, with a key frame each `target` seconds."""
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "gray",
        "-s",
        f"{WIDTH}x{HEIGHT}",
        "-r",
        str(RATE),
    ]
    command += ["-i", "-", "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-pix_fmt", "yuv420p"]
    command += ["-g", str(RATE * target), *output]
    encoder = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE)
    assert encoder.stdin is not None
    pipe = encoder.stdin

    async def paint() -> None:
        due = time.monotonic()
        while True:
            pipe.write(draw(clock()))
            await pipe.drain()
            due += 1 / RATE
            await asyncio.sleep(due - time.monotonic())

    painter = asyncio.create_task(paint())
    try:
        yield
    finally:
        painter.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await painter
        encoder.kill()
        await encoder.wait()


async def join(url: str, seconds: float) -> tuple[float, list[float]]:
    """Play a stream. Returns the start-up delay in ms and the latency of each frame in s."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-re", "-analyzeduration", "500000", "-live_start_index", "-2"]
    command += ["-i", url, "-map", "0:v", "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    began = time.monotonic()
    player = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert player.stdout is not None
    first, ages = 0.0, list[float]()
    try:
        async with asyncio.timeout(JOIN_TIMEOUT):
            while not first or time.monotonic() < began + first / 1000 + seconds:
                picture = await player.stdout.readexactly(PICTURE_BYTES)
                first = first or (time.monotonic() - began) * 1000
                if (shown := read_bars(picture)) is not None:
                    ages.append((clock() - shown) % (1 << BITS) / 1000)
    finally:
        player.kill()
        await player.wait()
    return first, ages


async def wait_until_listed(url: str) -> None:
    """Wait until a list has three segments."""
    async with httpx.AsyncClient() as http, asyncio.timeout(JOIN_TIMEOUT):
        while True:
            answer = await http.get(url)
            if answer.status_code == 200 and answer.text.count("#EXTINF") >= 3:
                return
            await asyncio.sleep(0.1)


@contextlib.contextmanager
def run_hls_server(folder: Path, target: int, module: Path) -> Iterator[tuple[str, Sequence[str]]]:
    """Nginx: the address of its list, and the output options of its publisher."""
    port, rtmp_port = free_ports(2)
    files = folder / "files"
    files.mkdir(parents=True)
    names = {"folder": folder, "host": HOST, "port": port, "rtmp_port": rtmp_port, "target": target}
    names["user"] = "user root;\n" if os.geteuid() == 0 else ""
    names["load"] = f"load_module {module};" if module.exists() else ""
    names["rtmp"] = RTMP_CONF.format(**names) if module.exists() else ""
    (folder / "nginx.conf").write_text(NGINX_CONF.format(**names))
    program = shutil.which("nginx") or ""
    command = [program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log"), "-g", "daemon off;"]
    output: Sequence[str] = ("-f", "flv", f"rtmp://{HOST}:{rtmp_port}/live/clock")
    if not module.exists():
        output = ("-f", "hls", "-hls_time", str(target), "-hls_list_size", "30", str(files / "clock.m3u8"))
    with run_contender(NGINX, command, port, folder):
        yield f"http://{HOST}:{port}/clock.m3u8", output


async def measure(folder: Path, target: int, joins: int, seconds: float, module: Path) -> list[Measurement]:
    """One target duration: both publish, and players join one after the other."""
    median, p95 = GLASS_TARGETS[target]
    glass50 = Measurement(f"glass to glass, {target} s segments, median", "s", [Target(median)])
    glass95 = Measurement(f"glass to glass, {target} s segments, p95", "s", [Target(p95)])
    first = Measurement(f"first picture, {target} s segments, p95", "ms", [Target(1000)])
    body = ("-f", "mp4", "-movflags", "frag_keyframe+empty_moov+default_base_moof", "-frag_duration", "250000")
    with (
        run_stack(folder / "data", env={"GRIDCAST_LIVE_TARGET_DURATION": str(target)}) as stack,
        run_hls_server(folder / "nginx", target, module) as (baseline, baseline_output),
    ):
        async with httpx.AsyncClient(base_url=stack.url) as http:
            answer = await http.post("/live", json={"filename": f"clock-{target}.mp4"})
        made = answer.raise_for_status().json()
        credential = ("-headers", f"Authorization: Bearer {made['publish_token']}\r\n", "-method", "POST")
        urls = {OURS: f"{stack.url}/live/{made['id']}/media.m3u8", NGINX: baseline}
        async with (
            publishing(target, *body, *credential, f"{stack.url}{made['media']}"),
            publishing(target, *baseline_output),
        ):
            ages, firsts = {who: list[float]() for who in urls}, {who: list[float]() for who in urls}
            for url in urls.values():
                await wait_until_listed(url)
            for number in range(joins):
                for who, url in urls.items():
                    await asyncio.sleep(target * (number % 4) / 4)  # at another place of a segment each time
                    came, seen = await join(url, seconds)
                    firsts[who].append(came)
                    ages[who] += seen
            for who in urls:
                glass50.add(who, statistics.median(ages[who]))
                glass95.add(who, statistics.quantiles(ages[who], n=20, method="inclusive")[18])
                first.add(who, statistics.quantiles(firsts[who], n=20, method="inclusive")[18])
    return [glass50, glass95, first]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two players in place of twenty")
    parser.add_argument("--rtmp-module", type=Path, default=RTMP_MODULE, help="nginx's RTMP module")
    options = parser.parse_args()
    if missing := missing_programs(TOOLS):
        print(f"needed and not found: {', '.join(missing)}")
        return
    for line in describe_machine(("nginx", "-v"), ("ffmpeg", "-version")):
        print(line)
    print(f"baseline: nginx {'with its RTMP module' if options.rtmp_module.exists() else 'on the files of a muxer'}")
    measured: list[Measurement] = []
    joins, seconds = (2, 1.0) if options.quick else (20, 5.0)
    for target in GLASS_TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            measured += asyncio.run(measure(Path(folder), target, joins, seconds, options.rtmp_module))
    for line in format_table(measured, (OURS, NGINX)):
        print(line)


if __name__ == "__main__":
    main()
