"""`gridcast listen` through kills of everything, one after the other: no event that was accepted is lost without a gap."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.stack import Stack, run_forked_stack
from tests.support.waiting import eventually

ROUNDS = [
    pytest.param(1, id="short"),
    pytest.param(4, id="long", marks=[pytest.mark.long, pytest.mark.timeout(900)]),
]
VICTIMS = ("socket-1", "gateway", "socket-2", "upload-1", "stream-1", "mongod", "redis-server")


class Pusher:
    """Pushes numbers to a topic without a pause, each with one id until it is accepted."""

    def __init__(self, url: str) -> None:
        self.accepted: list[int] = []
        self._stopped = threading.Event()
        self._url = url
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=10) as http:
            number = 0
            while not self._stopped.is_set():
                number += 1
                body = {"type": "count", "data": number, "id": f"count-{number}"}
                while not self._stopped.is_set():
                    try:
                        if http.post("/sockets/messages?topic=count", json=body).status_code == 200:
                            self.accepted.append(number)
                            break
                    except httpx.HTTPError:
                        pass
                    self._stopped.wait(0.1)
                self._stopped.wait(0.01)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(20)


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    with run_forked_stack(tmp_path / "data", "--sockets", "2") as stack:
        yield stack
    stack.delete_data()


@pytest.mark.parametrize("rounds", ROUNDS)
def test_no_event_is_lost_without_a_gap(rounds: int, own_stack: Stack, tmp_path: Path) -> None:
    output = tmp_path / "heard"
    with output.open("wb") as heard, (tmp_path / "notes").open("wb") as notes:
        listener = subprocess.Popen(
            [sys.executable, "-m", "gridcast.cli", "listen", "count", "--json"],
            env={**os.environ, "GRIDCAST_URL": own_stack.url},
            stdout=heard,
            stderr=notes,
        )
    eventually(lambda: (tmp_path / "notes").read_text("utf-8"), 20, "the listener is connected")
    pusher = Pusher(own_stack.url)
    try:
        for number in range(rounds):
            for victim in VICTIMS:
                before, seen = len(own_stack.restart_lines), len(pusher.accepted)
                os.kill(own_stack.pids[victim], signal.SIGKILL)
                eventually(lambda before=before: len(own_stack.restart_lines) > before, 30, f"{victim} is back")  # type: ignore[misc]
                eventually(lambda seen=seen: len(pusher.accepted) > seen + 20, 60, f"pushes go on after {victim}")  # type: ignore[misc]
                # What a killed Redis had stored and no replica had received is in the gap; later events must arrive.
                accepted = pusher.accepted[-1]
                eventually(lambda accepted=accepted: last_heard(output) >= accepted, 40, f"events come after {victim}")  # type: ignore[misc]
            if number + 1 < rounds:
                time.sleep(61)  # the runner restarts a process at most five times in a minute
        pusher.stop()
        last = pusher.accepted[-1]
        eventually(lambda: f'"count-{last}"' in output.read_text("utf-8"), 40, "the last event has come")
        assert listener.poll() is None
        listener.send_signal(signal.SIGINT)
        assert listener.wait(5) == 130
    finally:
        pusher.stop()
        listener.kill()
        listener.wait()
    check(output, pusher.accepted, rounds)


def last_heard(output: Path) -> int:
    """Return the number of the last event that the listener has written, 0 without one."""
    heard = re.findall(r'"id": "count-(\d+)"', output.read_text("utf-8"))
    return int(heard[-1]) if heard else 0


def check(output: Path, accepted: list[int], rounds: int) -> None:
    """Each accepted number came once, in its order, or a gap stands where it is missing."""
    expected = iter(accepted)
    gaps = missing = unexplained = 0
    is_after_gap = False
    for line in output.read_text("utf-8").splitlines():
        document = json.loads(line)
        if "gap" in document:
            gaps += 1
            is_after_gap = True
            continue
        if document["type"] != "count":
            continue
        lost = 0
        for number in expected:
            if number == document["data"]:
                break
            lost += 1
        else:
            pytest.fail(f"{document['data']} came twice or out of order")
        missing += lost
        unexplained += lost if not is_after_gap else 0
        is_after_gap = False
    print(f"{len(accepted)} events accepted, {missing} missing at {gaps} gaps")
    assert unexplained == 0
    # Redis alone loses history, and a gap may be told once by the socket and once by the resumed session.
    assert gaps <= 4 * rounds
    assert len(accepted) > 100
