"""Replicas of the live service of which one is killed, and a tus sender that goes on at any of them."""

import os
import random
import signal
import time
from pathlib import Path

import httpx

from tests.support.live_client import LiveClient
from tests.support.processes import run_service

PATIENCE = 30.0
"""Seconds within which some replica takes the bytes."""
PAUSE = 0.02
"""Seconds that a client waits between attempts."""


class LiveReplicas:
    """Two replicas of the live service. Kill in the thread that made them: a process ends with the thread that started it."""

    def __init__(self, env: dict[str, str], logs: Path) -> None:
        self._env = env
        self._logs = logs
        self.contexts = [run_service("services.live", logs, env) for _ in range(2)]
        self.services = [context.__enter__() for context in self.contexts]

    def kill(self, number: int) -> None:
        """Kill one, and start another in its place and at its address."""
        port = self.services[number].port
        os.kill(self.services[number].pid, signal.SIGKILL)
        self.contexts[number].__exit__(None, None, None)
        self.contexts[number] = run_service("services.live", self._logs, self._env, port=port, ready=False)
        self.services[number] = self.contexts[number].__enter__()

    def close(self) -> None:
        """Stop both."""
        for context in self.contexts:
            context.__exit__(None, None, None)


class TusSender:
    """A tus sender that goes on wherever a replica answers. It drops what is acknowledged, as a browser does.

    `failures` counts attempts without an acknowledgement, `longest` is the longest time, in seconds, until bytes were acknowledged.
    """

    def __init__(self, client: LiveClient, replicas: LiveReplicas, dice: random.Random) -> None:
        self._client = client
        self._replicas = replicas
        self._dice = dice
        self.offset = 0
        self.kept = b""
        self.failures = 0
        self.longest = 0.0

    def send(self, data: bytes, *, final: bool = False) -> None:
        """Send until all is acknowledged. Raises AssertionError where that takes longer than PATIENCE."""
        self.kept += data
        length = self.offset + len(self.kept) if final else None
        begun = time.monotonic()
        while not self._attempt(length):
            self.failures += 1
            assert time.monotonic() < begun + PATIENCE, "no replica takes the bytes"
            time.sleep(PAUSE)
        self.longest = max(self.longest, time.monotonic() - begun)

    def _attempt(self, length: int | None) -> bool:
        """Whether all is acknowledged after one more request to a replica."""
        self._client.url = self._dice.choice(self._replicas.services).url
        try:
            answer = self._client.patch(self.offset, self.kept, length)
            is_taken = answer.status_code == 204
            if not is_taken:
                if answer.status_code not in {409, 503}:
                    answer.raise_for_status()
                answer = self._client.head()
        except httpx.TransportError:
            return False
        if answer.status_code == 503:
            return False
        self._acknowledge(answer.raise_for_status())
        return not self.kept and (is_taken or length is None)

    def _acknowledge(self, answer: httpx.Response) -> None:
        offset = int(answer.headers["upload-offset"])
        assert offset >= self.offset, "acknowledged bytes were lost"
        self.kept = self.kept[offset - self.offset :]
        self.offset = offset
