"""SIGKILL of a live replica while a publisher sends by tus: 0 bytes are lost, and the file equals what was sent."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.store.limits import BLOCK_SIZE
from tests.support.fragmented_mp4 import fragment, init
from tests.support.hls_rules import check_playlist
from tests.support.live_client import make_stream, media_of, read_file, read_list
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


def test_files_follow_each_other_where_replicas_are_killed(replicas: LiveReplicas, library: ServiceProcess) -> None:
    """Row 12 while replicas are killed: the sender's codec parameters change each three seconds of its media."""
    dice = random.Random(54)
    client = make_stream(replicas.services[0])
    sender = TusSender(client, replicas, dice)
    files: list[bytes] = []
    rest, kills, kill_at = b"", 0, time.monotonic() + 1.0
    for number in range(12):
        files.append(init(size=(160 + 2 * number, 90)))
        for at in range(6):
            files[-1] += fragment(at * 0.5, 0.5, key=at % 4 == 0, fill=dice.randrange(1000, 40_000))
        rest += files[-1]
        while rest:
            if time.monotonic() >= kill_at:
                replicas.kill(kills % 2)
                kills, kill_at = kills + 1, time.monotonic() + 1.0
            cut = min(len(rest), dice.randrange(1, 60_000))
            sender.send(rest[:cut], final=number == 11 and cut == len(rest))
            rest = rest[cut:]
    assert kills >= 3
    described = client.get()
    assert (described["state"], described["reason"], described["duration"]) == ("ended", "complete", 36)
    stored = [read_file(library, client, file["filename"])[BLOCK_SIZE:] for file in described["files"]]
    assert stored == [media_of(sent) for sent in files]
    entries = check_playlist(read_list(library, client).text).entries
    assert sum(entry.discontinuity for entry in entries) == 11
    assert sum(entry.seconds for entry in entries) == pytest.approx(36)
