"""Mixed load for a while: uploads, range readers, sockets that are pushed to, all through the gateway.

Afterwards no process holds more memory or more descriptors. The slopes are printed: of resident memory over the second half of the
time, when caches are full, by least squares.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support.process_stats import open_descriptors, resident_memory
from tests.support.processes import show_log_on_failure
from tests.support.sizes import MIB
from tests.support.stack import SERVICE_NAMES, Stack, run_forked_stack
from tests.support.waiting import eventually_async
from tests.support.websocket_client import WebSocketClient

pytestmark = pytest.mark.anyio

SIZES = (0, 1000, 300_000, 1_500_000, 5_000_000)
UPLOADERS, READERS, SOCKETS = 3, 4, 20
KEPT_FILES = 12
"""Names that are overwritten repeatedly, so that the database does not only grow."""


@dataclass
class MixedLoad:
    """Counts of operations and of their results."""

    stack: Stack
    deadline: float
    rng: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)

    def is_running(self) -> bool:
        return time.monotonic() < self.deadline

    async def upload_files(self, number: int) -> None:
        async with httpx.AsyncClient(base_url=self.stack.url, timeout=60) as http:
            while self.is_running():
                name = f"{number}-{self.rng.randrange(KEPT_FILES)}"
                data = self.rng.randbytes(1000) * (self.rng.choice(SIZES) // 1000)
                answer = await http.put("/file/stream", params={"filename": name, "folder": "load"}, content=data)
                if not answer.is_success:
                    self.faults.append(f"PUT {answer.status_code} {answer.text}")
                    continue
                self.counts["uploads"] += 1
                self.stored[name] = data

    async def read_files(self) -> None:
        async with httpx.AsyncClient(base_url=self.stack.url, timeout=60) as http:
            while self.is_running():
                name = self.rng.choice([*self.stored, "nothing"])
                first = self.rng.randrange(1_000_000)
                fields = {"Range": f"bytes={first}-{first + self.rng.randrange(1, 600_000)}"}
                query = {"filename": name, "folder": "load"}
                answer = await http.get("/file/stream", params=query, headers=fields)
                if answer.status_code not in {200, 206, 404, 416}:
                    self.faults.append(f"GET {answer.status_code} {answer.text}")
                self.counts["reads"] += 1
                self.counts["bytes read"] += len(answer.content)

    async def push_events(self) -> None:
        async with httpx.AsyncClient(base_url=self.stack.url, timeout=60) as http:
            while self.is_running():
                answer = await http.post("/sockets/messages?topic=load", json={"type": "tick", "data": "x" * 500})
                if not answer.is_success:
                    self.faults.append(f"push {answer.status_code} {answer.text}")
                self.counts["pushes"] += 1
                await asyncio.sleep(0.05)

    async def listen(self) -> None:
        """Most sockets stay; each disconnects now and then and opens another connection."""
        client = await WebSocketClient.connect(self.stack, topics="load")
        while self.is_running():
            stay = time.monotonic() + self.rng.uniform(2, 20)
            while self.is_running() and time.monotonic() < stay:
                with contextlib.suppress(TimeoutError):
                    if (await client.receive_event("tick", timeout_seconds=2))["type"] == "tick":
                        self.counts["heard"] += 1
            client.events.clear()
            await client.close()
            client = await client.reconnect(self.stack)
            if not client.first_frame["recovered"]:
                self.faults.append("a socket that was away for a moment was not recovered")
            self.counts["returns"] += 1
        await client.close()

    async def run(self) -> dict[str, list[tuple[float, int]]]:
        """Run all clients, and record the memory of each process every second."""
        seen: dict[str, list[tuple[float, int]]] = {name: [] for name in SERVICE_NAMES}

        async def look() -> None:
            while self.is_running():
                for name in SERVICE_NAMES:
                    seen[name].append((time.monotonic(), resident_memory(self.stack.pids[name])))
                await asyncio.sleep(1)

        async with asyncio.TaskGroup() as group:
            group.create_task(look())
            group.create_task(self.push_events())
            for number in range(UPLOADERS):
                group.create_task(self.upload_files(number))
            for _ in range(READERS):
                group.create_task(self.read_files())
            for _ in range(SOCKETS):
                group.create_task(self.listen())
        return seen


def memory_slope(points: list[tuple[float, int]]) -> float:
    """Bytes per second: the slope over the second half, by least squares."""
    half = points[len(points) // 2 :]
    middle, mean = sum(at for at, _ in half) / len(half), sum(size for _, size in half) / len(half)
    spread = sum((at - middle) ** 2 for at, _ in half)
    return sum((at - middle) * (size - mean) for at, size in half) / spread if spread else 0.0


@pytest.fixture
def dedicated_stack(tmp_path: Path) -> Iterator[Stack]:
    """Small caches, so that they are full soon; a tombstone TTL of a second, so that replaced chunks are deleted."""
    env = {"GRIDCAST_BLOCK_CACHE_SIZE": str(32 * MIB), "GRIDCAST_TOMBSTONE_TTL": "1", "GRIDCAST_GC_INTERVAL": "2"}
    with contextlib.ExitStack() as shown:
        stack = shown.enter_context(run_forked_stack(tmp_path / "data", "--sockets", "2", "--streams", "2", env=env))
        for name in SERVICE_NAMES:
            shown.enter_context(show_log_on_failure(stack.log_dir / f"{name}.log", name))
        yield stack
        stack.terminate()
        assert stack.restart_lines == [], "a process ended by itself"
        stack.delete_data()


@pytest.mark.parametrize(
    ("seconds", "a_minute", "growth"),
    [
        pytest.param(20, None, 96, id="short"),
        pytest.param(600, 2.0, 128, id="ten minutes", marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
)
async def test_memory_and_descriptors_stay_flat_under_mixed_load(
    dedicated_stack: Stack, seconds: int, a_minute: float | None, growth: int
) -> None:
    """`growth`: MiB of a process over the whole time, caches included. `a_minute`: MiB, once they are full."""
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    pids = {name: dedicated_stack.pids[name] for name in SERVICE_NAMES}
    before = {name: (resident_memory(pid), open_descriptors(pid)) for name, pid in pids.items()}
    load = MixedLoad(dedicated_stack, time.monotonic() + seconds, random.Random(seed))
    seen = await load.run()
    assert load.faults == []
    print(f"{seconds} s: {dict(load.counts)}")
    assert min(load.counts[kind] for kind in ("uploads", "reads", "pushes", "heard", "returns")) > 0

    async def few() -> bool:
        # A keep-alive connection to a service, a pool of the drivers: no more than a handful.
        return all(open_descriptors(pid) <= before[name][1] + 40 for name, pid in pids.items())

    await eventually_async(few, 60)
    for name, pid in pids.items():
        grown, open_now = resident_memory(pid) - before[name][0], open_descriptors(pid)
        climb = memory_slope(seen[name]) * 60 / MIB
        print(
            f"{name:<9} {before[name][0] / MIB:5.0f} MiB {grown / MIB:+6.1f}, {climb:+6.2f} MiB a minute, "
            f"descriptors {before[name][1]} to {open_now}"
        )
        assert grown <= growth * MIB
        assert a_minute is None or climb <= a_minute
    async with httpx.AsyncClient(base_url=dedicated_stack.url, timeout=60) as http:
        for name, data in load.stored.items():
            answer = await http.get("/file/stream", params={"filename": name, "folder": "load"})
            assert hashlib.sha256(answer.content).digest() == hashlib.sha256(data).digest(), name
    for name in SERVICE_NAMES:
        assert "Traceback" not in (dedicated_stack.log_dir / f"{name}.log").read_text("utf-8"), name
