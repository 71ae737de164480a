"""Background load that uploads, reads, pushes and listens while a test restarts parts of the stack, and a log of its results.

An upload counts as acknowledged once its 2xx was read to the end. No name is used twice, so its content is known.
"""

import contextlib
import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlencode

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

TOPIC = "restarts"
CLOSE_SERVICE_RESTART = 1012


@dataclass
class TrafficLog:
    """The results of all clients. Every field only grows."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    """SHA-256 by name."""
    failed_uploads: list[str] = field(default_factory=list)
    """Uploads that were not acknowledged, and why."""
    read_statuses: Counter[int] = field(default_factory=Counter)
    failed_reads: list[str] = field(default_factory=list)
    """Safe requests that failed, and why."""
    corrupt_reads: list[str] = field(default_factory=list)
    """Answers with other bytes than were stored."""
    close_codes: Counter[int] = field(default_factory=Counter)
    """Close codes of the listeners' connections."""
    pushed_ids: list[str] = field(default_factory=list)
    """Ids of events that were accepted."""

    def counts(self) -> tuple[int, int, int]:
        """The numbers of successful reads, uploads and pushes."""
        return self.read_statuses[200], len(self.acknowledged), len(self.pushed_ids)

    def progressed_since(self, earlier: tuple[int, int, int]) -> bool:
        """Return whether more than three of each have succeeded since."""
        return all(now > then + 3 for now, then in zip(self.counts(), earlier, strict=True))


class ReconnectingListener:
    """A client that resumes with its secret and position whenever its connection ends."""

    def __init__(self, url: str, log: TrafficLog) -> None:
        self._url = url.replace("http", "ws", 1) + "/ws"
        self._log = log
        self._resume_secret = self._last_sequence = ""
        self.received_ids: list[str] = []
        self.gap_count = 0
        """How often the server reported a possible gap."""

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError, TimeoutError, EOFError, ConnectionError):
                self._connect_once(stop)
            time.sleep(0.1)

    def _connect_once(self, stop: threading.Event) -> None:
        query = {"topics": TOPIC}
        if self._resume_secret:
            query |= {"resume": self._resume_secret, "after": self._last_sequence}
        try:
            connection = connect(f"{self._url}?{urlencode(query)}", proxy=None, compression=None, open_timeout=5)
        except Exception as error:  # noqa: BLE001  # any rejection is tried again
            if "401" in str(error) or "410" in str(error):
                self._resume_secret = ""
            return
        with connection:
            try:
                self._handle_first_frame(json.loads(connection.recv(5)))
                while not stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        self._receive_event(connection)
            except ConnectionClosed:
                self._log.close_codes[connection.close_code or 1006] += 1

    def _handle_first_frame(self, hello: dict[str, str]) -> None:
        self.gap_count += bool(self._resume_secret) and not hello["recovered"]
        self._resume_secret = hello["resume"]
        self._last_sequence = hello["sequence"]

    def _receive_event(self, connection: ClientConnection) -> None:
        event = json.loads(connection.recv(0.2))
        if event.get("type") == "socket.resync":
            self.gap_count += 1
        if "sequence" in event:
            self._last_sequence = event["sequence"]
        if event.get("type") == "news":
            self.received_ids.append(event["id"])


class Traffic:
    """The load: threads that run inside `running()`."""

    def __init__(self, url: str, *, uploaders: int = 3, readers: int = 3, listeners: int = 6) -> None:
        self.log = TrafficLog()
        self.listeners = [ReconnectingListener(url, self.log) for _ in range(listeners)]
        self._url = url
        self._stop = threading.Event()
        works: list[Callable[[int], None]] = [self._upload] * uploaders + [self._read] * readers + [self._push]
        self._threads = [threading.Thread(target=work, args=(number,)) for number, work in enumerate(works)]
        self._threads += [threading.Thread(target=one.run, args=(self._stop,)) for one in self.listeners]

    @contextlib.contextmanager
    def running(self) -> Iterator[TrafficLog]:
        """Run the load inside the block; yields its log."""
        for thread in self._threads:
            thread.start()
        try:
            yield self.log
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(60)

    def _upload(self, number: int) -> None:
        rng = random.Random(number)
        count = 0
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stop.is_set():
                count += 1
                data = rng.randbytes(rng.choice([1_000, 200_000, 1_500_000]))
                name = f"load-{id(self.log):x}-{number}-{count}"
                try:
                    answer = client.put("/file/stream", params={"filename": name}, content=data)
                except httpx.HTTPError as error:
                    self.log.failed_uploads.append(f"{name}: {error!r}")
                    time.sleep(0.2)
                    continue
                if answer.status_code == 201:
                    self.log.acknowledged[name] = hashlib.sha256(data).hexdigest()
                else:
                    self.log.failed_uploads.append(f"{name}: {answer.status_code} {answer.text}")
                    time.sleep(0.2)

    def _read(self, number: int) -> None:
        rng = random.Random(number)
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stop.is_set():
                if not self.log.acknowledged:
                    time.sleep(0.05)
                    continue
                name = rng.choice(list(self.log.acknowledged))
                try:
                    answer = client.get("/file/stream", params={"filename": name})
                except httpx.HTTPError as error:
                    self.log.failed_reads.append(f"{name}: {error!r}")
                    time.sleep(0.2)
                    continue
                self.log.read_statuses[answer.status_code] += 1
                if answer.status_code != 200:
                    self.log.failed_reads.append(f"{name}: {answer.status_code} {answer.text}")
                    time.sleep(0.2)
                elif hashlib.sha256(answer.content).hexdigest() != self.log.acknowledged[name]:
                    self.log.corrupt_reads.append(name)

    def _push(self, _number: int) -> None:
        """Push events to the topic, repeating each with the same id until it is accepted."""
        count = 0
        with httpx.Client(base_url=self._url, timeout=10) as client:
            while not self._stop.is_set():
                count += 1
                event_id = f"news-{id(self.log):x}-{count}"
                news = {"type": "news", "data": count, "id": event_id}
                while not self._stop.is_set():
                    with contextlib.suppress(httpx.HTTPError):
                        if client.post("/sockets/messages", params={"topic": TOPIC}, json=news).is_success:
                            self.log.pushed_ids.append(event_id)
                            break
                    time.sleep(0.2)
                time.sleep(0.05)


def find_lost_uploads(url: str, log: TrafficLog) -> list[str]:
    """Acknowledged uploads whose content cannot be read back unchanged."""
    lost = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for name, expected in log.acknowledged.items():
            answer = client.get("/file/stream", params={"filename": name})
            if answer.status_code != 200 or hashlib.sha256(answer.content).hexdigest() != expected:
                lost.append(f"{name}: {answer.status_code}")
    return lost
