"""SIGKILL of a live replica while a publisher sends by tus: 0 bytes are lost, and the file equals what was sent."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from services.common.store.limits import BLOCK_SIZE
from tests.support.fragmented_mp4 import fragment, init
from tests.support.live_client import LiveClient, make_stream, media_of, read_file
from tests.support.processes import ServiceProcess, run_service

SHORT_SECONDS, LONG_SECONDS = 6.0, 600.0
KILL_SECONDS = {SHORT_SECONDS: 1.5, LONG_SECONDS: 20.0}


class Replicas:
    """Replicas of the live service, of which one is killed and started again."""

    def __init__(self, env: dict[str, str], logs: Path) -> None:
        self._env = env
        self._logs = logs
        self.contexts = [run_service("services.live", logs, env) for _ in range(2)]
        self.services = [context.__enter__() for context in self.contexts]

    def kill(self, number: int) -> None:
        """Kill one, and start another in its place."""
        os.kill(self.services[number].pid, signal.SIGKILL)
        self.contexts[number].__exit__(None, None, None)
        self.contexts[number] = run_service("services.live", self._logs, self._env, ready=False)
        self.services[number] = self.contexts[number].__enter__()

    def close(self) -> None:
        for context in self.contexts:
            context.__exit__(None, None, None)


@pytest.fixture
def replicas(live_env: dict[str, str], tmp_path: Path) -> Iterator[Replicas]:
    running = Replicas(live_env, tmp_path)
    try:
        yield running
    finally:
        running.close()


class Sender:
    """A tus sender that goes on wherever a replica answers. It drops what is acknowledged, as a browser does."""

    def __init__(self, client: LiveClient, replicas: Replicas, dice: random.Random) -> None:
        self._client = client
        self._replicas = replicas
        self._dice = dice
        self.offset = 0
        self.kept = b""
        self.failures = 0

    def send(self, data: bytes, *, final: bool = False) -> None:
        """Send until all is acknowledged."""
        self.kept += data
        length = self.offset + len(self.kept) if final else None
        deadline = time.monotonic() + 30
        while self.kept or (final and length is not None):
            assert time.monotonic() < deadline, "no replica takes the bytes"
            self._client.url = self._dice.choice(self._replicas.services).url
            try:
                answer = self._client.patch(self.offset, self.kept, length)
                if answer.status_code not in {204, 409, 503}:
                    answer.raise_for_status()
                if answer.status_code == 204 and final and int(answer.headers["upload-offset"]) == length:
                    self._acknowledge(answer)
                    return
                if answer.status_code != 204:
                    answer = self._client.head().raise_for_status()
                self._acknowledge(answer)
            except httpx.TransportError:
                self.failures += 1
                time.sleep(0.02)  # what a client waits between attempts

    def _acknowledge(self, answer: httpx.Response) -> None:
        offset = int(answer.headers["upload-offset"])
        assert offset >= self.offset, "acknowledged bytes were lost"
        self.kept = self.kept[offset - self.offset :]
        self.offset = offset


@pytest.mark.parametrize("seconds", [SHORT_SECONDS, pytest.param(LONG_SECONDS, marks=pytest.mark.long)])
def test_nothing_is_lost_where_replicas_are_killed(replicas: Replicas, library: ServiceProcess, seconds: float) -> None:
    dice = random.Random(17)
    client = make_stream(replicas.services[0])
    sender = Sender(client, replicas, dice)
    sent, number, kills = init(), 0, 0
    ends_at = time.monotonic() + seconds
    kill_at = time.monotonic() + KILL_SECONDS[seconds]
    rest = sent
    while time.monotonic() < ends_at:
        media = fragment(number * 0.5, 0.5, key=number % 4 == 0, fill=dice.randrange(1000, 40_000))
        number += 1
        sent += media
        rest += media
        cut = dice.randrange(len(rest))
        piece, rest = rest[:cut], rest[cut:]
        if time.monotonic() >= kill_at:
            replicas.kill(kills % 2)
            kills += 1
            kill_at += KILL_SECONDS[seconds]
        sender.send(piece)
    sender.send(rest, final=True)
    assert kills >= 3
    described = client.get()
    assert (described["state"], described["reason"]) == ("ended", "complete")
    assert described["duration"] == pytest.approx(number * 0.5)
    assert read_file(library, client)[BLOCK_SIZE:] == media_of(sent)
