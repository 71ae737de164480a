"""SIGKILL of a live replica while a publisher sends by tus: 0 bytes are lost, and the file equals what was sent."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.store.limits import BLOCK_SIZE
from tests.support.fragmented_mp4 import fragment, init
from tests.support.live_client import make_stream, media_of, read_file
from tests.support.live_publisher import LiveReplicas, TusSender
from tests.support.processes import ServiceProcess

SHORT_SECONDS, LONG_SECONDS = 6.0, 600.0
KILL_SECONDS = {SHORT_SECONDS: 1.5, LONG_SECONDS: 20.0}


@pytest.fixture
def replicas(live_env: dict[str, str], tmp_path: Path) -> Iterator[LiveReplicas]:
    running = LiveReplicas(live_env, tmp_path)
    try:
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("seconds", [SHORT_SECONDS, pytest.param(LONG_SECONDS, marks=pytest.mark.long)])
def test_nothing_is_lost_where_replicas_are_killed(
    replicas: LiveReplicas, library: ServiceProcess, seconds: float
) -> None:
    """Row 26."""
    dice = random.Random(17)
    client = make_stream(replicas.services[0])
    sender = TusSender(client, replicas, dice)
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
