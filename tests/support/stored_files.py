"""Files by name, written through the upload service and read through the stream service, for tests that move a store."""

import contextlib
import hashlib
import random
import threading
from collections.abc import Iterator, Mapping

import httpx

from tests.support.processes import ServiceProcess, StartService

FOLDER = "shelf"


class StoredFiles:
    """The files of a store, and an upload and a stream service on it. `env` names the store and Redis."""

    def __init__(self, start: StartService, env: Mapping[str, str]) -> None:
        self._start = start
        self._env = dict(env)
        self.sha256_by_name: dict[str, str] = {}
        self.start_services()

    def start_services(self) -> None:
        self.upload: ServiceProcess = self._start("services.upload", **self._env)
        self.stream: ServiceProcess = self._start("services.stream", **self._env)

    def stop_services(self) -> None:
        self.upload.terminate()
        self.stream.terminate()

    def put(self, name: str, size: int) -> None:
        """Store a file of that size; its bytes follow from its name."""
        data = random.Random(name).randbytes(size)
        answer = httpx.put(
            f"{self.upload.url}/file/stream", params={"filename": name, "folder": FOLDER}, content=data, timeout=60
        )
        assert answer.status_code in {200, 201}, answer.text
        self.sha256_by_name[name] = hashlib.sha256(data).hexdigest()

    def read(self, name: str) -> str:
        """The SHA-256 of a file's bytes, or the status where there are none."""
        answer = httpx.get(f"{self.stream.url}/file/stream", params={"filename": name, "folder": FOLDER}, timeout=60)
        return hashlib.sha256(answer.content).hexdigest() if answer.status_code == 200 else str(answer.status_code)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Store one file after another, `meanwhile-N`, and replace and delete others, while the block runs; at least one."""
        stop = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            count = 0
            try:
                while not stop.is_set() or not count:
                    count += 1
                    self.put(f"meanwhile-{count}", 400_000)
            except BaseException as error:  # noqa: BLE001  # raised in the test
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)
        assert not failed, failed
